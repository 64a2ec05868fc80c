"""Dead letters: turns that could not be answered, to be looked at, put back, or thrown away."""

from sdqueue.deadletters.letter import DeadLetter, LetterFilter
from sdqueue.deadletters.letters import Batch, DeadLetters

__all__ = ["Batch", "DeadLetter", "DeadLetters", "LetterFilter"]
