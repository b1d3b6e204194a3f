"""The recorder of a fit's steps: when steps are recorded, and how recorded results are checked against Python's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.program.recording.record import Function, Recording, alike, check_compiler, signature
from zoo.program.recording.settings import Settings
from zoo.program.run import generators, set_generators
from zoo.program.tally import uncounted

#: Calls by Python, and seconds of processor time that they take, before operations are recorded: to capture those of a call
#: takes a hundred times as long as the call, and a second to import.
FIRST, START = 250, 0.5
#: Calls after which recorded results are compared with Python's again.
EVERY = 50
#: The first calls of a recording, which are run by Python, too, and timed; and the share of Python's time that they may take.
TRIALS, GAIN = 5, 0.8
#: Times that operations are recorded anew, after settings have changed.
MOST = 4


@dataclass
class Recorder:
    """A function of tensors that is run by Python at first, and by its recorded operations once these are worth it.

    The first calls of a recording, every 50th call, and the last call (:meth:`check`) are run both ways and compared. The
    recorded results are returned on compared calls, too, so the results of a fit do not depend on which calls were compared.
    Both ways draw the same random numbers from torch's generators. If settings have changed, the operations are recorded anew.

    Args:
        function: a function of the modules' parameters, as a list, and of the inputs.
        modules: the modules whose parameters and buffers may change between calls.
        reason: why Python has to run all calls, e.g. that the function is not known to be pure.
        compiled: whether Inductor compiles the operations, from the first call on.
        unchanged: returns whether everything else that the function loads from outside is unchanged.

    Attributes:
        reason: why Python runs all calls from now on; empty if Python does not.
        differs: how recorded results differed from Python's results. The results since the last comparison are then not to be
            trusted; from the compared call on, Python computes the results. Empty if no difference was found.
        checked: the number of calls that were compared.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> recorder = Recorder(lambda parameters, x: (layer(x).sum().detach(),), [layer])
    >>> bool(recorder(torch.zeros(3, 2))[0] == 0)
    True
    """

    function: Function
    modules: Sequence[nn.Module]
    reason: str = ""
    compiled: bool = False
    unchanged: Callable[[], bool] = lambda: True
    differs: str = field(default="", init=False)
    checked: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        held = nn.ModuleList(self.modules)
        self._parameters, self._buffers = [*held.parameters()], [*held.buffers()]
        self._recording: Recording | None = None
        self._recorded, self._calls, self._seconds = 0, 0, 0.0
        self._times: list[tuple[float, float]] = []
        #: The last call's inputs, which may be none, and the settings at the first call of a function that is not pure.
        self._last: tuple[Tensor, ...] | None = None
        self._settings: Settings | None = None
        self._python, self._unproved = 0, bool(self.reason)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        known = self._ready(inputs)
        if known is None or signature(inputs) != known.shapes:
            return self._by_python(inputs)
        self._calls, self._last = self._calls + 1, inputs
        if self._calls <= TRIALS or self._calls % EVERY == 0:
            return self._compared(known, inputs)
        return known(*inputs)

    def check(self) -> bool:
        """Compare at the last call's inputs once more, and leave all tensors as they are; return whether results were alike."""
        if self._recording is not None and self._last is not None:
            before, buffers = generators(), self._copied()
            with uncounted():
                self._compared(self._recording, self._last)
            self._put(before, buffers)
        return not self.differs

    def _ready(self, inputs: Sequence[Tensor]) -> Recording | None:
        """Return the recording, if there is one that holds; make one where it is time."""
        if self._recording is not None and not (self._recording.holds() and self.unchanged()):
            self._recording, self._calls, self._seconds, self._python = None, 0, 0.0, 0
        if self._recording is None and not self.reason and (self.compiled or self._due):
            self._record(inputs)
        return self._recording

    @property
    def _due(self) -> bool:
        return self._python >= FIRST and self._seconds >= START

    def _record(self, inputs: Sequence[Tensor]) -> None:
        self._recorded += 1
        if self._recorded > MOST:
            self.reason = "its settings change again and again"
            return
        try:
            self._recording = Recording(self.function, self.modules, inputs, self.compiled)
        except Exception as error:  # of torch's own classes, many of them private: what can't be captured is run by Python
            self.reason = f"it can't be captured: {str(error).strip().splitlines()[0] if str(error) else type(error).__name__}"

    def _by_python(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if self._unproved and self._settings is None:
            self._settings = Settings(self.modules)
        begun = time.thread_time()
        found = self.function(self._parameters, *inputs)
        self._seconds, self._python, self._last = self._seconds + time.thread_time() - begun, self._python + 1, tuple(inputs)
        return found

    def saving(self) -> str:
        """Return in words what recording would save of a call, were the function declared pure; empty where that is little.

        It is measured at the last call's inputs. Nothing is tried where settings have changed since the first call: then the
        function is not pure indeed.
        """
        if self._settings is None or self._last is None or not self._settings.hold():
            return ""
        try:
            trial = Recording(self.function, self.modules, self._last, False)
        except Exception:  # of torch's own classes, as in recording
            return ""
        before, buffers, seconds = generators(), self._copied(), []
        for _ in range(TRIALS):
            begun = time.thread_time()
            with uncounted():
                trial(*self._last)
            seconds.append(time.thread_time() - begun)
        self._put(before, buffers)
        share = min(seconds) * self._python / self._seconds
        return f"pure=True would save {1 - share:.0%} of a step ({self.reason})" if share <= GAIN else ""

    def _compared(self, known: Recording, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the recorded results where they are Python's, and else these."""
        before, buffers = generators(), self._copied()
        begun = time.thread_time()
        found = known(*inputs)
        seconds = time.thread_time() - begun
        after = generators(), self._copied()
        self._put(before, buffers)
        begun = time.thread_time()
        with uncounted():
            expected = self.function(self._parameters, *inputs)
        self._times.append((seconds, time.thread_time() - begun))
        same = torch.equal(after[0][0], generators()[0]) and all(
            alike(a, b) for a, b in zip([*found, *after[1]], [*expected, *self._buffers], strict=True))
        if not same:
            self._refuse()
            return expected
        self.checked += 1
        self._put(*after)
        if len(self._times) == TRIALS and not self.compiled and self.share > GAIN:
            self.reason, self._recording = "it would gain less than a fifth", None
        return found

    def _refuse(self) -> None:
        self._recording, self.reason = None, f"recorded results differ from Python's at call {self._calls}"
        if self._calls > 1:  # else no recorded result was returned
            self.differs = self.reason

    @property
    def share(self) -> float:
        """The share of Python's time that recorded calls take, by the least of several."""
        ours, pythons = zip(*self._times, strict=True)
        return float(min(ours) / min(pythons))

    def _copied(self) -> list[Tensor]:
        return [each.clone() for each in self._buffers]

    def _put(self, states: tuple[Tensor, list[Tensor]], buffers: Sequence[Tensor]) -> None:
        """Put torch's generators and the modules' buffers back."""
        set_generators(*states)
        with torch.no_grad():
            for each, value in zip(self._buffers, buffers, strict=True):
                each.copy_(value)


def check_compiled(reason: str) -> None:
    """Raise a :class:`ZooError` where steps can't be compiled: program or guide is not pure, or there is no C++ compiler."""
    if reason:
        raise ZooError(f"expected a pure program and guide for compile=True; got one of which this is not known: {reason}; "
                       "pass pure=True if Python's own state plays no part, or leave compile out")
    check_compiler()
