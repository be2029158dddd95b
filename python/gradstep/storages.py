"""Storages: how the numbers of parameters and states lie in memory, and how they are rounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core, arrays
from .arrays import NUMBERS
from .extras import need
from .hyperparameters import whole
from .rule import Rule, State

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .arrays import Array

    Allocate = Callable[[str, tuple[int, ...], np.dtype[Any]], Array]

ROLES: dict[str, tuple[str, ...]] = _core.storages()
STATE_ROLES = ("momentum", "second_moment", "maximum", "parameter", "magnitude", "rate")
EXACT = ("float32", "float64", "split")  # no rounding but that of float64 to float32, to nearest
EXACT_ROLES = ("parameter", "rate")  # never in blocks
MODES = ("nearest", "stochastic")
CACHE_LINE = 64  # bytes


def dtype_of(name: str) -> np.dtype[Any]:
    """The NumPy dtype of an element storage; uint8 for the storages in blocks."""
    if name == "bfloat16":
        bfloat16: np.dtype[Any] = np.dtype(need("ml_dtypes", "bfloat16 arrays", "bf16").bfloat16)
        return bfloat16
    return np.dtype(name if _core.storage_block(name) == 1 else np.uint8)


def compute_type(dtype: str) -> str:
    """What a step over such a parameter computes in: float64 for float64, else float32."""
    return "float64" if dtype == "float64" else "float32"


class Shard:
    """A parameter array that is a piece of a larger tensor.

    The random bits of stochastic rounding follow from the tensor's key and the element's index in
    the tensor. So a tensor that is updated in pieces, by one optimizer or by several processes,
    gets the bits that it gets in one piece, if each piece says where it starts.

    Args:
        array: the piece.
        key: which tensor it is of, from 0 to 2⁶³ − 1. Without one: the parameter's position among
            all parameters of the optimizer.
        start: at which element of the tensor, flattened in C order, the piece begins. q8 and q4
            states want a multiple of their block, 256 and 64.

    Raises:
        TypeError, ValueError: naming the argument, what it got and what it wanted.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> tensor = np.ones(1024, np.float32)
        >>> halves = [gs.Shard(tensor[:512], key=7), gs.Shard(tensor[512:], key=7, start=512)]
        >>> gs.AdamW(halves, states="q8").step([np.ones(512, np.float32)] * 2)
        Report(t=1, lr=0.001)
    """

    __slots__ = ("array", "key", "start")

    def __init__(self, array: Array, key: int | None = None, start: int = 0) -> None:
        arrays.check("array", array, writable=True)
        self.array = array  # as it was given: a view would not show that it is resized later
        self.key = None if key is None else whole("key", key, 2**63)
        self.start = whole("start", start, 2**63)

    def __repr__(self) -> str:
        return f"Shard(<{self.array.dtype} {self.array.shape}>, {self.key}, {self.start})"


class StorageOptions:
    """What an optimizer was asked of storages and rounding, for whichever rules its groups have.

    Args:
        states: None, a storage's name, or a mapping from state to storage.
        rounding: None, a mode's name, or a mapping from state, or ``params``, to mode.
        split: whether the parameters are pairs of bfloat16 and int16.

    Raises:
        TypeError: ``split`` is neither True nor False.
    """

    def __init__(self, states: Any, rounding: Any, split: Any) -> None:
        if not isinstance(split, bool | np.bool_):
            raise TypeError(f"split: got {split!r}, wanted True or False")
        self.states = states
        self.rounding = rounding
        self.split = bool(split)

    def of(self, rule: Rule, rules: Iterable[Rule]) -> Storages:
        """The storages of one rule's states.

        Args:
            rule: the rule.
            rules: all rules of the optimizer: what names a state of another one is not for this.

        Raises:
            TypeError, ValueError: naming the argument, what it got and what it wanted.
        """
        own = {state.name for state in rule.states}
        others = {state.name for other in rules for state in other.states} - own

        def mine(asked: Any) -> Any:
            if not isinstance(asked, Mapping):
                return asked
            return {name: value for name, value in asked.items() if name not in others}

        return Storages(rule, mine(self.states), mine(self.rounding), self.split)

    def check_used(self, uses: Sequence[Use]) -> None:
        """Raise ValueError if ``states`` or ``rounding`` names what no group has.

        Args:
            uses: the groups.
        """
        names = " and ".join(dict.fromkeys(use.rule for use in uses))
        present = {name for use in uses for name in use.present if use.storages.may_store(name)}
        for argument, asked in (("states", self.states), ("rounding", self.rounding)):
            for name in asked if isinstance(asked, Mapping) else ():
                if name != "params" and name not in present:
                    raise ValueError(
                        f"{argument}[{name!r}]: got a value, but {names} was built without "
                        "that state, wanted the option that brings it, or no such entry"
                    )
        if isinstance(self.states, str) and not present:
            raise ValueError(
                f"states: got {self.states!r}, but {names} was built without states that can be "
                "stored so, wanted the option or parameter that brings one, or None"
            )
        self._check_rounding_used(uses)

    def _check_rounding_used(self, uses: Sequence[Use]) -> None:
        if self.rounding == "stochastic" and not any(
            use.storages.stochastic(dtype, use.present) for use in uses for dtype in use.dtypes
        ):
            raise ValueError(
                "rounding: got 'stochastic', but nothing here is rounded, wanted None, or "
                "parameters or states in bfloat16, float16, q8 or q4"
            )
        asked = self.rounding.get("params") if isinstance(self.rounding, Mapping) else None
        if asked == "stochastic" and all(
            use.storages.of_param(dtype) in EXACT for use in uses for dtype in use.dtypes
        ):
            raise ValueError(
                "rounding['params']: got 'stochastic' for parameters that are not rounded, wanted "
                "'nearest', or bfloat16 or float16 parameters"
            )


class Use(NamedTuple):
    """What the groups of one rule use of its storages."""

    rule: str
    storages: Storages
    present: Sequence[str]  # the states that some of the groups have, in the rule's order
    dtypes: Sequence[str]  # of their parameters


class Storages:
    """How the states of one rule are stored and rounded.

    Args:
        rule: the rule.
        states: None, a storage's name, or a mapping from state to storage.
        rounding: None, a mode's name, or a mapping from state, or ``params``, to mode.
        split: whether the parameters are pairs of bfloat16 and int16.

    Raises:
        TypeError, ValueError: naming the argument, what it got and what it wanted.
    """

    def __init__(self, rule: Rule, states: Any, rounding: Any, split: Any) -> None:
        self.split: bool = split
        self._rule = rule
        self._roles = {state.name: state.role for state in rule.states}
        # One word is for the averages. Points like the parameter and rates stay as exact as the
        # parameters are, and numbers for rows and columns are few. But in a rule that has no other
        # states the word is for those, or it would be accepted and do nothing.
        averages = [s.name for s in rule.states if not (s.role in EXACT_ROLES or s.is_factor)]
        one_word = averages or [*self._roles]
        every = dict.fromkeys(one_word, states) if isinstance(states, str) else states
        self.states = self._checked_states(every, isinstance(states, Mapping))
        self._rounding_of_all = rounding if isinstance(rounding, str) else None
        if isinstance(rounding, str):
            _check_mode("rounding", rounding)
        self._rounding = self._checked_rounding({} if isinstance(rounding, str) else rounding)
        # What a step writes, in the order of the bits that say what is rounded stochastically.
        self.buffers = ("params", *self._roles)

    def _checked_states(self, states: Any, by_name: bool) -> dict[str, str]:
        if states is None:
            return {}
        if not isinstance(states, Mapping):
            raise TypeError(
                f"states: got {type(states).__name__}, wanted a storage's name or a mapping from "
                "state to storage"
            )
        factors = {state.name: state.shape for state in self._rule.states if state.is_factor}
        for name, storage in states.items():
            _check_key("states", name, self._roles)
            argument, whose = (f"states[{name!r}]", "") if by_name else ("states", f" for {name}")
            if name in factors:
                raise ValueError(
                    f"{argument}: got {storage!r}, but {name} has a number for each of the "
                    f"{factors[name]} and is kept as it is computed, wanted a mapping without it"
                )
            wanted = ", ".join(s for s in ROLES if self._roles[name] in ROLES[s])
            if not isinstance(storage, str):
                raise TypeError(f"{argument}: got {storage!r}{whose}, wanted one of {wanted}")
            if self._roles[name] not in ROLES.get(storage, ()):
                small = "sizes" if self._roles[name] in ("magnitude", "rate") else "squares"
                why = f", in which {small} underflow" if storage == "float16" else ""
                raise ValueError(f"{argument}: got {storage!r}{whose}{why}, wanted one of {wanted}")
        return dict(states)

    def _checked_rounding(self, rounding: Any) -> dict[str, str]:
        if rounding is None:
            return {}
        if not isinstance(rounding, Mapping):
            raise TypeError(
                f"rounding: got {type(rounding).__name__}, wanted 'nearest', 'stochastic' or a "
                "mapping from state, or 'params', to one of them"
            )
        for name, mode in rounding.items():
            _check_key("rounding", name, ("params", *self._roles))
            argument = f"rounding[{name!r}]"
            _check_mode(argument, mode)
            if mode == "stochastic" and self._roles.get(name) == "maximum":
                raise ValueError(
                    f"{argument}: got 'stochastic', wanted 'nearest': a maximum that is rounded up "
                    "again and again only grows"
                )
            if mode == "stochastic" and name != "params" and self._is_exact(name):
                storage = self.states.get(name, "the compute type")
                raise ValueError(
                    f"{argument}: got 'stochastic' for a state in {storage}, which is not rounded; "
                    "wanted 'nearest', or a storage that is"
                )
        return dict(rounding)

    def _is_exact(self, state: str) -> bool:
        return self.states.get(state, "float32") in EXACT

    # Parameters come by the name of their dtype.

    def may_store(self, state: str) -> bool:
        """Whether a state may be stored otherwise than it is computed."""
        return not any(s.is_factor for s in self._rule.states if s.name == state)

    def of(self, state: str, dtype: str) -> str:
        """The storage of a parameter's state."""
        return self.states.get(state) or compute_type(dtype)

    def of_param(self, dtype: str) -> str:
        return "split" if self.split else dtype

    def stochastic(self, dtype: str, present: Iterable[str]) -> int:
        """Which of a parameter's buffers round stochastically: bit 0 itself, bit 1 + s state s."""
        bits: int = self._is_stochastic("params", self.of_param(dtype), False)
        for s, (name, role) in enumerate(self._roles.items()):
            storage = self.of(name, dtype)
            default = _core.rounds_stochastically(storage, role)
            if name in present and role != "maximum":
                bits |= self._is_stochastic(name, storage, default) << 1 + s
        return bits

    def _is_stochastic(self, name: str, storage: str, default: bool) -> bool:
        mode = self._rounding.get(name, self._rounding_of_all)
        return storage not in EXACT and (default if mode is None else mode == "stochastic")

    def check_param(self, argument: str, dtype: str, start: int, states: Iterable[str]) -> None:
        """Raise if a parameter cannot be stored, or starts, as it was asked."""
        if self.split and dtype != "bfloat16":
            raise TypeError(f"{argument}: got dtype {dtype} with split=True, wanted bfloat16")
        for name in states:
            storage = self.of(name, dtype)
            if start % (block := _core.storage_block(storage)):
                raise ValueError(
                    f"{argument}: got a shard that starts at {start}, wanted a multiple of "
                    f"{block}, the block of {name} in {storage}"
                )

    def starts(
        self, group: Mapping[str, Any], names: Iterable[str], dtype: str
    ) -> Iterator[tuple[State, str, float]]:
        """How states of a parameter begin: for each its storage and the number it starts from.

        Args:
            group: the hyperparameters of the parameter's group.
            names: the states, see :meth:`Rule.present`.
            dtype: the parameter's.
        """
        names = set(names)
        for state in self._rule.states:
            if state.name in names:
                initial = group[state.initial] if state.initial else 0
                yield state, self.of(state.name, dtype), initial

    def check_initial(self, argument: str, state: str, value: float, dtype: str) -> None:
        """Raise ValueError if a state cannot hold what it starts from."""
        storage = self.of(state, dtype)
        kept = np.float64 if storage == "float64" else np.float32
        with np.errstate(over="ignore"):
            stored = kept(value)
            if storage in NUMBERS:
                stored = stored.astype(dtype_of(storage))
        if not np.isfinite(stored):
            raise ValueError(
                f"{argument}: got {value}, which is infinite in {storage}, wanted a number that "
                f"the storage of {state} holds"
            )


def named(uses: Sequence[Use]) -> dict[str, Any]:
    """The storage of each state that is there, whether parameters are split, and what is rounded
    stochastically, as a state dict has it."""
    stored: dict[str, Any] = {}
    stochastic: list[str] = []
    for use in uses:
        for name in use.present:
            # several where float32 and float64 parameters stand beside each other
            known = stored[name].split("/") if name in stored else []
            kinds = [use.storages.of(name, dtype) for dtype in use.dtypes]
            stored[name] = "/".join(dict.fromkeys([*known, *kinds]))
        chosen = {use.storages.stochastic(dtype, use.present) for dtype in use.dtypes}
        stochastic += [
            name
            for i, name in enumerate(use.storages.buffers)
            if any(bits >> i & 1 for bits in chosen)
        ]
    return {
        **stored,
        "split": any(use.storages.split for use in uses),
        "stochastic": list(dict.fromkeys(stochastic)),
    }


def _check_key(argument: str, name: object, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"{argument}: got the unknown {name!r}, wanted {', '.join(known)}")


def _check_mode(argument: str, mode: object) -> None:
    if mode not in MODES:
        raise ValueError(f"{argument}: got {mode!r}, wanted 'nearest' or 'stochastic'")


# ---- arrays of a storage ----


def zeros(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], allocate: Allocate | None
) -> Array:
    """An array of zeros, from ``allocate`` if there is one, and then checked."""
    if allocate is None or 0 in shape:  # a file of no bytes cannot be mapped
        # NumPy's own large arrays begin 16 bytes into a cache line: vectors would straddle two.
        size = math.prod(shape) * dtype.itemsize
        memory = np.zeros(size + CACHE_LINE, np.uint8)
        first = -memory.ctypes.data % CACHE_LINE
        return memory[first : first + size].view(dtype).reshape(shape)
    argument = f"allocate({name!r}, …)"
    array = arrays.check(
        argument, allocate(name, shape, dtype), writable=True, dtypes=(dtype.name,), shape=shape
    )
    if array.reshape(-1).view(np.uint8).max():
        raise ValueError(f"{argument}: got an array with bytes that are not 0, wanted zeros")
    return array


def new_state(
    name: str,
    state: State,
    storage: str,
    initial: float,
    param: Array,
    allocate: Allocate | None,
) -> Array:
    """A parameter's state at its start."""
    block = _core.storage_block(storage)
    beside = state.beside(param.shape) or param.shape
    shape = beside if block == 1 else (_core.storage_bytes(storage, param.size),)
    array = zeros(name, shape, dtype_of(storage), allocate)
    if state.is_point:
        with np.errstate(over="ignore"):  # infinite, as a step would store it
            np.copyto(array, param, casting="unsafe")
    if initial:
        if block == 1:
            array[...] = initial if storage in EXACT else np.float32(initial)
            return array
        size = 256 * block  # elements at once
        values = np.full(min(size, param.size), np.float32(initial))
        for begin in range(0, param.size, size):
            part = values[: param.size - begin]
            first = _core.storage_bytes(storage, begin)
            out = array[first : first + _core.storage_bytes(storage, part.size)]
            _core.encode(storage, state.role, part, out, False, 0, 0, 0, 0, begin)
    return array


def decode(array: Array, storage: str, role: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Read a stored state as float32.

    Args:
        array: the state, as in ``opt.state``: uint8 for q8 and q4, else of the storage's dtype.
        storage: its name, such as ``"q8"``.
        role: what it holds, since codes depend on it: ``"momentum"`` (averages of the gradient),
            ``"second_moment"`` (of its square), ``"maximum"`` (``max_exp_avg_sq``),
            ``"parameter"`` (``z``), ``"magnitude"`` (``exp_inf``) or ``"rate"`` (``step_size``).
        shape: its parameter's shape.

    Returns:
        The numbers, exactly; from float64 rounded to nearest.

    Raises:
        TypeError, ValueError: the array does not fit the storage and shape, or a name is unknown.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w = np.zeros((2, 2), np.float32)
        >>> opt = gs.Adam(w, states="q8")
        >>> report = opt.step(np.array([[1, -2], [4, 0]], np.float32))
        >>> opt.state["0"]["exp_avg"].shape  # a float32 scale, and a byte an element
        (8,)
        >>> gs.decode(opt.state["0"]["exp_avg"], "q8", "momentum", w.shape).round(3)
        array([[ 0.1, -0.2],
               [ 0.4,  0. ]], dtype=float32)
    """
    _check_key("role", role, STATE_ROLES)
    _check_key("storage", storage, [name for name in ROLES if role in ROLES[name]])
    out = np.zeros(shape, np.float32)
    is_block = _core.storage_block(storage) > 1
    stored = (_core.storage_bytes(storage, out.size),) if is_block else out.shape
    dtype = dtype_of(storage).name
    data = arrays.check("array", array, writable=False, dtypes=(dtype,), shape=stored)
    _core.decode(storage, role, data.reshape(-1), out.reshape(-1))
    return out


def split(values: Array) -> tuple[Array, NDArray[np.int16]]:
    """Split float32 numbers into a bfloat16 half, rounded, and the 16 bits that are left.

    The halves are what ``split=True`` keeps: the first is the parameter, the second
    ``opt.state[name]["low"]``. A NaN and an infinity keep their upper half. Finite numbers that
    would round to infinity keep theirs, too; their pair is at most the float32 0x7F7F7FFF.

    Args:
        values: float32, of any shape.

    Returns:
        The bfloat16 array and the int16 array, of the same shape.

    Raises:
        TypeError, ValueError: the array is refused.
        ImportError: ml_dtypes, which brings bfloat16, is not installed.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> hi, lo = gs.split(np.array([1, 3.1415927], np.float32))
        >>> hi
        array([1, 3.14062], dtype=bfloat16)
        >>> gs.unsplit(hi, lo)
        array([1.       , 3.1415927], dtype=float32)
    """
    given = arrays.check("values", values, writable=False, dtypes=("float32",))
    hi, lo = np.empty(given.shape, dtype_of("bfloat16")), np.empty(given.shape, np.int16)
    _core.split(given.reshape(-1), hi.reshape(-1), lo.reshape(-1))
    return hi, lo


def unsplit(hi: Array, lo: Array) -> NDArray[np.float32]:
    """The float32 numbers of two halves, see :func:`split`.

    Args:
        hi: bfloat16, of any shape.
        lo: int16, of the same shape.

    Raises:
        TypeError, ValueError: an array is refused.
    """
    upper = arrays.check("hi", hi, writable=False, dtypes=("bfloat16",))
    lower = arrays.check("lo", lo, writable=False, dtypes=("int16",), shape=upper.shape)
    values = np.empty(upper.shape, np.float32)
    _core.unsplit(upper.reshape(-1), lower.reshape(-1), values.reshape(-1))
    return values
