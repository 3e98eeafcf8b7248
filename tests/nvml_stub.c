/* A driver library for tests: what it answers stands in the file named by $STUB_NVML, which is
 * read anew at each call. See `Library` in nvml.py for its lines. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, UNKNOWN = 999 };
enum { LINE = 512, UUID = 96, MOST = 64, MAX_PARTS = 7 };

typedef unsigned long long bytes;
struct device { char uuid[UUID], name[UUID]; bytes total, free, reserved; int error, of; };
struct handle { char uuid[UUID]; int begun; };
struct memory { bytes total, free, used; };
struct memory_v2 { unsigned version; bytes total, reserved, free, used; };
struct process { unsigned pid; bytes used; unsigned gpu_instance, compute_instance; };

static struct device devices[MOST];
static struct process processes[MOST];
static char users[MOST][UUID];
static int device_count, process_count, init_error, begun, held;

static int read_script(void) {
  char line[LINE];
  FILE *file = fopen(getenv("STUB_NVML"), "r");
  if (file == NULL) return UNKNOWN;
  device_count = process_count = init_error = 0;
  memset(devices, 0, sizeof devices);
  memset(processes, 0, sizeof processes);
  while (fgets(line, sizeof line, file) != NULL) {
    struct device *d = &devices[device_count];
    struct process *p = &processes[process_count];
    long long used;
    if (sscanf(line, "init %d", &init_error) == 1) continue;
    if (sscanf(line, "card %95s %llu %llu %llu %d %95[^\n]", d->uuid, &d->total, &d->free,
               &d->reserved, &d->error, d->name) == 6) {
      d->of = -1;
      device_count++;
    } else if (sscanf(line, "part %d %95s %llu %llu", &d->of, d->uuid, &d->total, &d->free) == 4) {
      strcpy(d->name, "a part");
      device_count++;
    } else if (sscanf(line, "process %95s %u %lld", users[process_count], &p->pid, &used) == 3) {
      p->used = (bytes)used;
      process_count++;
    }
  }
  fclose(file);
  return OK;
}

/* The n-th card, or the n-th part of a card. */
static struct device *nth(int of, unsigned n) {
  for (int i = 0; i < device_count; i++)
    if (devices[i].of == of && n-- == 0) return &devices[i];
  return NULL;
}

static int count(int of) {
  int n = 0;
  for (int i = 0; i < device_count; i++) n += devices[i].of == of;
  return n;
}

static int hand_out(struct device *device, int otherwise, void **handle) {
  if (device == NULL) return otherwise;
  if (device->error != OK) return device->error;
  struct handle *made = malloc(sizeof *made);
  strcpy(made->uuid, device->uuid);
  made->begun = begun;
  *handle = made;
  return OK;
}

/* What a handle stands for, or an error: handles die when the library is let go of. */
static int look_up(struct handle *handle, struct device **device) {
  if (held == 0) return UNINITIALIZED;
  if (read_script() != OK) return UNKNOWN;
  if (handle->begun != begun) return INVALID_ARGUMENT;
  for (int i = 0; i < device_count; i++)
    if (strcmp(devices[i].uuid, handle->uuid) == 0) {
      *device = &devices[i];
      return devices[i].error;
    }
  return 15; /* NVML_ERROR_GPU_IS_LOST */
}

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  if (read_script() != OK) return UNKNOWN;
  if (init_error != OK) return init_error;
  begun++;
  held++;
  return OK;
}

int nvmlShutdown(void) {
  if (held == 0) return UNINITIALIZED;
  held--;
  return OK;
}

int nvmlDeviceGetCount_v2(unsigned *out) {
  if (held == 0) return UNINITIALIZED;
  if (read_script() != OK) return UNKNOWN;
  *out = (unsigned)count(-1);
  return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  if (held == 0) return UNINITIALIZED;
  if (read_script() != OK) return UNKNOWN;
  return hand_out(nth(-1, index), INVALID_ARGUMENT, handle);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
  if (held == 0) return UNINITIALIZED;
  if (read_script() != OK) return UNKNOWN;
  for (int i = 0; i < device_count; i++)
    if (strcmp(devices[i].uuid, uuid) == 0) return hand_out(&devices[i], NOT_FOUND, handle);
  return NOT_FOUND;
}

int nvmlDeviceGetName(struct handle *handle, char *name, unsigned length) {
  struct device *device;
  int error = look_up(handle, &device);
  if (error == OK) snprintf(name, length, "%s", device->name);
  return error;
}

int nvmlDeviceGetUUID(struct handle *handle, char *uuid, unsigned length) {
  struct device *device;
  int error = look_up(handle, &device);
  if (error == OK) snprintf(uuid, length, "%s", device->uuid);
  return error;
}

int nvmlDeviceGetMemoryInfo(struct handle *handle, struct memory *memory) {
  struct device *device;
  int error = look_up(handle, &device);
  if (error != OK) return error;
  if (device->total == 0) return NOT_SUPPORTED;
  memory->total = device->total;
  memory->free = device->free;
  memory->used = device->total - device->free;
  return OK;
}

int nvmlDeviceGetMemoryInfo_v2(struct handle *handle, struct memory_v2 *memory) {
  struct device *device;
  int error = look_up(handle, &device);
  if (error != OK) return error;
  if (memory->version != (2u << 24 | sizeof *memory)) return 25; /* ARGUMENT_VERSION_MISMATCH */
  memory->total = device->total;
  memory->reserved = device->reserved;
  memory->free = device->free;
  memory->used = device->total - device->free - device->reserved;
  return OK;
}

int nvmlDeviceGetMigMode(struct handle *handle, unsigned *now, unsigned *next) {
  struct device *device;
  int error = look_up(handle, &device);
  if (error != OK) return error;
  if (device->of >= 0) return NOT_SUPPORTED;
  int place = 0;
  while (nth(-1, (unsigned)place) != device) place++;
  *now = *next = count(place) > 0;
  return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(struct handle *handle, unsigned *most) {
  struct device *device;
  int error = look_up(handle, &device);
  *most = MAX_PARTS;
  return error;
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct handle *handle, unsigned index, void **part) {
  struct device *device;
  int error = look_up(handle, &device);
  if (error != OK) return error;
  int place = 0;
  while (nth(-1, (unsigned)place) != device) place++;
  return hand_out(nth(place, index), NOT_FOUND, part);
}

int nvmlDeviceGetComputeRunningProcesses_v3(struct handle *handle, unsigned *length,
                                            struct process *out) {
  struct device *device;
  int error = look_up(handle, &device);
  unsigned found = 0;
  if (error != OK) return error;
  for (int i = 0; i < process_count; i++) {
    if (strcmp(users[i], device->uuid) != 0) continue;
    if (out != NULL && found < *length) out[found] = processes[i];
    found++;
  }
  error = found > *length ? INSUFFICIENT_SIZE : OK;
  *length = found;
  return error;
}

const char *nvmlErrorString(int error) {
  static char text[32];
  snprintf(text, sizeof text, "stub error %d", error);
  return text;
}
