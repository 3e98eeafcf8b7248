"""What outlives the process: notes in SQLite, in a directory that one gate holds.

It knows nothing of what a note says. Whatever becomes of the disk, the gate goes on: notes are
held in memory as well, and written when that is possible again.
"""

from ollama_gate.store.keeper import Keeper
from ollama_gate.store.notes import Note, NoteId

__all__ = ["Keeper", "Note", "NoteId"]
