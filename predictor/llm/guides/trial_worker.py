"""The process that tries guides: compiles each, follows it for some tokens, and says what went wrong, if it lives.

Run as `python -m predictor.llm.guides.trial_worker FD`; FD is its end of a multiprocessing pipe. It gets (vocabulary,
limits), then one GuideSpec at a time, and answers each with a sentence, or "" when nothing is wrong. It ends with the
pipe.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from mesh.errors import MeshError
from predictor.llm.guide import Guide, GuideSpec
from predictor.llm.guides.maker import LlguidanceGuides
from predictor.llm.guides.matching import TooCostly
from predictor.llm.guides.trial import TrialLimits
from predictor.llm.guides.vocabulary import GuideVocabulary


def verdict(guides: LlguidanceGuides, spec: GuideSpec, limits: TrialLimits) -> str:
    """What is wrong with `spec`; "" for nothing.

    Wrong is also a guide that becomes too costly on any way that is tried, or finds no token to go on on all of them:
    a dead end on some ways is one that a model may never take.
    """
    try:
        dead_ends = [follow(guides.start(spec), way, limits.num_tokens) for way in range(limits.num_ways)]
    except MeshError as error:
        return error.message
    return dead_ends[0] if all(dead_ends) else ""


def follow(guide: Guide, way: int, num_tokens: int) -> str:
    """Let `guide` go on for some tokens, and say why it could not; "" when it could. `way`: which tokens are taken.

    Raises TooCostly.
    """
    rng = random.Random(way)
    try:
        for _ in range(num_tokens):
            mask = guide.allowed()
            if guide.is_complete:
                break
            guide.accept(_some_token(mask, rng))
    except TooCostly:
        raise
    except MeshError as error:
        return error.message
    return ""


def _some_token(mask: bytes, rng: random.Random) -> int:
    """One of those in the first byte of `mask`, from some place on, that has any: not uniform, and quick."""
    start = rng.randrange(len(mask))
    place: int = next(i for i in (*range(start, len(mask)), *range(start)) if mask[i])
    return place * 8 + rng.choice([bit for bit in range(8) if mask[place] >> bit & 1])


def main(fileno: int) -> None:
    """Answer until the pipe ends."""
    pipe = Connection(fileno)
    vocabulary: GuideVocabulary
    limits: TrialLimits
    vocabulary, limits = pipe.recv()
    guides = LlguidanceGuides(vocabulary, max_compiled=1)
    guides.warm_up()  # what it takes comes before the bound
    _bound_memory(limits)
    threading.stack_size(limits.stack_bytes)
    while True:
        try:
            spec: GuideSpec = pipe.recv()
        except EOFError:
            return
        # The default action of SIGPROF ends the process, whatever it does; the parent starts another.
        signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)
        answer = _in_thread(guides, spec, limits)
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send(answer)


def _in_thread(guides: LlguidanceGuides, spec: GuideSpec, limits: TrialLimits) -> str:
    """`verdict`, on a stack of the size that was asked for."""
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(verdict(guides, spec, limits)))
    thread.start()
    thread.join()
    if not answers:  # an error that is no MeshError, as Python's own MemoryError
        os.abort()
    return answers[0]


def _bound_memory(limits: TrialLimits) -> None:
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = num_pages * resource.getpagesize() + limits.memory_bytes + limits.stack_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(int(sys.argv[1]))
