"""Which runner serves which request, and what context the request must name for it.

It follows `needsReload` of Ollama v0.32.15 (`server/sched.go`) and the merging of options before
it (`server/routes.go`, `modelOptions`). Where the two can differ it errs to the safe side: a
runner that Ollama would reload never serves, or Ollama would load behind the gate's back; one that
Ollama would have used as it is costs no more than a swap. Nothing is chosen or changed here.
"""

from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.memory import Runner
from ollama_gate.scheduler.types import Bin, BinId, Launch, Request, RunnerState

NOWHERE = Bin(id=BinId(""), upstream="")
"""A card, for what is not loaded yet."""

DEFAULT_BATCH = 512
"""`num_batch` where neither request nor Modelfile names one (`api/types.go`, `DefaultOptions`).
What a runner that was left the choice then takes depends on its context and on the card."""


def serves(runner: Runner, request: Request) -> bool:
    """Whether a runner, once resident, would serve a request without being reloaded.

    Deviations from Ollama, all on the safe side: an option named on one side only counts as a
    difference where it depends on more than the options what the other side comes to
    (`use_mmap`, `draft_num_predict`, an explicit `num_batch` where the runner was left the
    choice); and a model that one client put on the CPU (`num_gpu: 0`) does not serve those who
    did not ask for that.
    """
    have, want = runner.launch, request.launch
    return (
        runner.model == request.model
        and _enough_context(runner, request)
        and _same_layers(runner, want)
        and _same_batch(runner, request)
        and have.main_gpu == want.main_gpu
        and have.use_mmap == want.use_mmap
        # 0 is the default.
        and (have.num_thread or 0) == (want.num_thread or 0)
        and have.draft_num_predict == want.draft_num_predict
        and have.shift == want.shift
        and have.extras == want.extras
    )


def would_share(target: Request, request: Request) -> bool:
    """Whether a runner that is loaded for one request would serve another one as well."""
    runner = Runner(
        bin=NOWHERE,
        model=target.model,
        name=target.name,
        launch=target.launch,
        num_ctx=target.num_ctx,
        named_ctx=target.named_ctx,
        footprint_bytes=0,
        reported_bytes=0,
        free_at_load_bytes=None,
        parallel=target.parallel,
        keep_alive_s=0.0,
        state=RunnerState.LOADING,
        since=0.0,
        load_s=0.0,
        began_at=0.0,
    )
    return serves(runner, request)


def context_to_name(runner: Runner, request: Request) -> int | None:
    """The `num_ctx` that a request must name, so that Ollama finds this runner to be its own.

    `None` for a request that is sent with what it says.
    """
    if request.least_ctx is None:
        return None
    return runner.num_ctx if runner.named_ctx is None else runner.named_ctx


def launches(request: Request) -> tuple[Launch, ...]:
    """What a runner may be loaded with for a request by itself."""
    return (request.launch,) if request.exact is None else (request.launch, request.exact.launch)


def _enough_context(runner: Runner, request: Request) -> bool:
    least, named, asked = request.least_ctx, runner.launch.num_ctx, request.launch.num_ctx
    if least is None or runner.num_ctx is None:
        # Who asks for the same gets the same, even where Ollama gives less than was asked for:
        # otherwise a runner would not serve the very request that it was loaded for.
        return named == asked or (runner.num_ctx is not None and runner.num_ctx == request.num_ctx)
    # One that was given less than it named has all that the model can have.
    at_its_end = named is not None and runner.num_ctx < named
    return runner.num_ctx >= least or at_its_end


def _same_layers(runner: Runner, want: Launch) -> bool:
    if want.num_gpu is None or want.num_gpu < 0:
        return runner.bin.cpu or not runner.launch.on_cpu
    return runner.launch.num_gpu == want.num_gpu


def _same_batch(runner: Runner, request: Request) -> bool:
    have, want = runner.launch.num_batch, request.launch.num_batch
    if request.batch_limit is None:
        return have == want or (want is None and have == DEFAULT_BATCH)
    if request.least_ctx is None and (runner.launch.num_ctx, have) == (
        request.launch.num_ctx,
        want,
    ):
        # Whatever the context came to, the batch followed from the same.
        return True
    named = request.named_ctx if request.least_ctx is None else context_to_name(runner, request)
    return _derived(have, runner.named_ctx, request) == _derived(want, named, request)


def _derived(num_batch: int | None, named_ctx: int | None, request: Request) -> int | None:
    """The batch of an embedding model: what is named, else as much as the context that is."""
    if num_batch is not None or named_ctx is None or request.batch_limit is None:
        return num_batch
    return min(named_ctx, request.batch_limit)


def take_for_another(runner: Runner, resident: ev.Resident) -> bool:
    """Whether what is listed is no longer what was loaded, though of the same model.

    Somebody reloaded it behind the gate's back: with another context, or on the CPU or back.
    """
    told = resident.num_ctx
    if told is not None and runner.num_ctx is not None and told != runner.num_ctx:
        return True
    if runner.bin.cpu:
        return False
    if runner.launch.on_cpu:
        return resident.reported_bytes > 0
    return resident.launch.on_cpu and runner.reported_bytes > 0
