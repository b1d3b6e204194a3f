"""Abstract interpretation of a function's bytecode: what may stand on the stack and in each local variable.

The interpreter follows all paths, except those of exceptions, until nothing new is found. An instruction that is not listed
here raises a :class:`~zoo.program.recording.purity.values.Doubt`.
"""

from __future__ import annotations

import dis
import itertools
import sys
from collections.abc import Collection, Iterator
from types import CodeType, FunctionType

from zoo.program.recording.purity.names import words
from zoo.program.recording.purity.values import ANY, MADE, MINE, NULL, Doubt, Outside, Values, attribute, check_kept, result

State = tuple[tuple[Values, ...], dict[str, Values]]  # the stack and the local variables

_PUSHED_NEW = words(  # what these push is new or can't be changed; what they pop follows from their effect on the stack
    "BINARY_OP BUILD_CONST_KEY_MAP BUILD_LIST BUILD_MAP BUILD_SET BUILD_SLICE BUILD_STRING BUILD_TUPLE COMPARE_OP CONTAINS_OP "
    "CONVERT_VALUE FORMAT_SIMPLE FORMAT_VALUE FORMAT_WITH_SPEC GET_LEN IS_OP LIST_TO_TUPLE TO_BOOL UNARY_INVERT UNARY_NEGATIVE "
    "UNARY_NOT")
_POPPED = {"BINARY_SLICE": 3, "BINARY_SUBSCR": 2, "GET_ITER": 1, "UNARY_POSITIVE": 1, "UNPACK_EX": 1, "UNPACK_SEQUENCE": 1,
           "YIELD_VALUE": 1} | dict.fromkeys(words(  # what they push is not known to be new
    "CACHE COPY_FREE_VARS DELETE_FAST DICT_MERGE DICT_UPDATE END_FOR EXTENDED_ARG FOR_ITER JUMP_BACKWARD JUMP_FORWARD "
    "JUMP_IF_FALSE_OR_POP JUMP_IF_TRUE_OR_POP KW_NAMES LIST_APPEND LIST_EXTEND MAKE_CELL MAP_ADD NOP "
    "POP_JUMP_BACKWARD_IF_FALSE POP_JUMP_BACKWARD_IF_NONE POP_JUMP_BACKWARD_IF_NOT_NONE POP_JUMP_BACKWARD_IF_TRUE "
    "POP_JUMP_FORWARD_IF_FALSE POP_JUMP_FORWARD_IF_NONE POP_JUMP_FORWARD_IF_NOT_NONE POP_JUMP_FORWARD_IF_TRUE "
    "POP_JUMP_IF_FALSE POP_JUMP_IF_NONE POP_JUMP_IF_NOT_NONE POP_JUMP_IF_TRUE POP_TOP RESUME SET_ADD SET_UPDATE"), 0)
_ENDS = {"RAISE_VARARGS", "RETURN_CONST", "RETURN_VALUE"}
_REFUSED = {
    "STORE_GLOBAL": "stores to the global `{}`", "DELETE_GLOBAL": "deletes the global `{}`",
    "STORE_ATTR": "sets the attribute `{}`", "DELETE_ATTR": "deletes the attribute `{}`", "IMPORT_NAME": "imports `{}`",
    "LOAD_BUILD_CLASS": "defines a class",
}
_GENERATORS = 0x20 | 0x80 | 0x200  # flags of a generator's, a coroutine's and an asynchronous generator's code


class Frame:
    """One code object that is read: a function's, or that of a function or comprehension inside it."""

    def __init__(self, outside: Outside, function: FunctionType, code: CodeType, parent: Frame | None = None):
        self.outside, self.function, self.code, self.parent = outside, function, code, parent
        self.instructions = list(dis.get_instructions(code))
        self.at = {instruction.offset: k for k, instruction in enumerate(self.instructions)}
        arguments = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
        self.arguments = dict.fromkeys(code.co_varnames[:arguments], ANY)
        self.stack: list[Values] = []
        self.local: dict[str, Values] = {}
        self.stored = {name: ANY for name in code.co_cellvars if name in self.arguments}  # all that a cell ever holds

    def read(self) -> None:
        """Follow every path, then the code of inner functions; a :class:`Doubt` names the line."""
        line = self.code.co_firstlineno
        try:
            self.refuse_forms()
            states: list[State | None] = [None] * len(self.instructions)
            states[0], todo = ((), self.arguments), [0]
            while todo:
                k = todo.pop()
                line = getattr(self.instructions[k].positions, "lineno", None) or line
                for target, state in self.step(k, *states[k]):  # type: ignore[misc]
                    if (joined := _joined(states[target], state)) != states[target]:
                        states[target] = joined
                        todo.append(target)
        except Doubt as doubt:
            raise Doubt(f"{doubt} (line {line} of {self.function.__name__})") from None
        for inner in self.code.co_consts:
            if isinstance(inner, CodeType):
                Frame(self.outside, self.function, inner, self).read()

    def refuse_forms(self) -> None:
        """Doubt generators, and exceptions that are caught: their paths are not followed."""
        if self.code.co_flags & _GENERATORS and self.code.co_name != "<genexpr>":
            raise Doubt("it is a generator or a coroutine")
        names = [instruction.opname for instruction in self.instructions]
        if any(this == "PUSH_EXC_INFO" and after != "WITH_EXCEPT_START" for this, after in itertools.pairwise(names)):
            raise Doubt("it catches exceptions with `try`")

    def step(self, k: int, stack: tuple[Values, ...], local: dict[str, Values]) -> Iterator[tuple[int, State]]:
        """Yield where instruction ``k`` leads, with the state there."""
        instruction = self.instructions[k]
        name = instruction.opname
        if name in _ENDS:
            check_kept(stack)
        elif (special := getattr(self, f"on_{name.lower()}", None)) is not None:
            self.stack, self.local = list(stack), dict(local)
            special(instruction)
            yield k + 1, (tuple(self.stack), self.local)
        else:
            self.refuse(instruction, stack)
            jumps = instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs
            for jump in [True] * jumps + [False] * (name not in {"JUMP_FORWARD", "JUMP_BACKWARD"}):
                yield self.at[instruction.argval] if jump else k + 1, (_effect(instruction, stack, jump), local)

    def refuse(self, instruction: dis.Instruction, stack: tuple[Values, ...]) -> None:
        """Doubt an instruction that is not listed, or that changes what the call did not make."""
        name = instruction.opname
        if name not in _PUSHED_NEW and name not in _POPPED:
            why = _REFUSED.get(name, "has an instruction {opname} whose effect is not known")
            raise Doubt(f"it {why.format(instruction.argval, opname=name)}")
        if name == "BINARY_OP" and instruction.argrepr.endswith("=") and stack[-2] != MINE:
            raise Doubt(f"it changes by `{instruction.argrepr}` something that it did not make")

    # Instructions that need more than their effect on the stack.

    def pop(self, count: int) -> list[Values]:
        popped = self.stack[len(self.stack) - count:]
        del self.stack[len(self.stack) - count:]
        return popped

    def on_nothing(self, _: dis.Instruction) -> None:
        """Leave the state as it is."""

    on_precall = on_nothing  # `dis.stack_effect` gives it what CALL pops

    def on_return_generator(self, _: dis.Instruction) -> None:
        self.stack.append(ANY)

    def on_push_null(self, _: dis.Instruction) -> None:
        self.stack.append(frozenset({NULL}))

    def on_copy(self, instruction: dis.Instruction) -> None:
        self.stack.append(self.stack[-instruction.arg])  # type: ignore[operator]

    def on_swap(self, instruction: dis.Instruction) -> None:
        other: int = instruction.arg  # type: ignore[assignment]
        self.stack[-1], self.stack[-other] = self.stack[-other], self.stack[-1]

    def on_load_const(self, instruction: dis.Instruction) -> None:
        constant = instruction.argval
        self.stack.append(frozenset({constant}) if isinstance(constant, CodeType) else MINE)

    def on_load_assertion_error(self, _: dis.Instruction) -> None:
        self.stack.append(frozenset({AssertionError}))

    def on_load_fast(self, instruction: dis.Instruction) -> None:
        self.stack.append(self.local.get(instruction.argval, ANY))

    on_load_fast_check = on_load_fast_and_clear = on_load_closure = on_load_fast

    def on_load_fast_load_fast(self, instruction: dis.Instruction) -> None:
        self.stack += [self.local.get(name, ANY) for name in instruction.argval]

    def on_store_fast(self, instruction: dis.Instruction) -> None:
        self.local[instruction.argval] = self.stack.pop()

    def on_store_fast_load_fast(self, instruction: dis.Instruction) -> None:
        stored, loaded = instruction.argval
        self.local[stored] = self.stack.pop()
        self.stack.append(self.local.get(loaded, ANY))

    def on_store_fast_store_fast(self, instruction: dis.Instruction) -> None:
        for name in instruction.argval:
            self.local[name] = self.stack.pop()

    def on_load_deref(self, instruction: dis.Instruction) -> None:
        name = instruction.argval
        own = name in self.code.co_cellvars
        self.stack.append(self.local.get(name, ANY) if own else self.free(name))

    def free(self, name: str) -> Values:
        """Return all that the enclosing code ever stores in a variable, or what is known of the function's closure."""
        if self.parent is None:
            return self.outside.cell(self.function, name)
        return self.parent.stored.get(name, ANY) if name in self.parent.code.co_cellvars else self.parent.free(name)

    def on_store_deref(self, instruction: dis.Instruction) -> None:
        name = instruction.argval
        if name not in self.code.co_cellvars:
            raise Doubt(f"it stores to the nonlocal `{name}`")
        (value,) = self.pop(1)
        self.local[name] = value
        self.stored[name] = self.stored.get(name, frozenset()) | value

    def on_load_global(self, instruction: dis.Instruction) -> None:
        null = [frozenset({NULL})] if instruction.arg & 1 else []  # type: ignore[operator]
        self.stack += [*null, self.outside.name(self.function, instruction.argval)]

    def on_load_method(self, instruction: dis.Instruction) -> None:
        (receiver,) = self.pop(1)
        self.stack += [frozenset({NULL}), attribute(self.outside, receiver, instruction.argval)]

    def on_load_attr(self, instruction: dis.Instruction) -> None:
        if sys.version_info >= (3, 12) and (instruction.arg or 0) & 1:
            self.on_load_method(instruction)
        else:
            self.stack.append(attribute(self.outside, self.stack.pop(), instruction.argval))

    def on_store_subscr(self, _: dis.Instruction) -> None:
        value, container, _key = self.pop(3)
        check_kept([value])
        if container != MINE:
            raise Doubt("it stores to an item of something that it did not make")

    def on_delete_subscr(self, _: dis.Instruction) -> None:
        if self.pop(2)[0] != MINE:
            raise Doubt("it deletes an item of something that it did not make")

    def on_store_slice(self, _: dis.Instruction) -> None:
        if self.pop(4)[1] != MINE:
            raise Doubt("it stores to a slice of something that it did not make")

    def on_before_with(self, _: dis.Instruction) -> None:
        (context,) = self.pop(1)
        if context != frozenset({MADE}):
            raise Doubt("it enters with `with` something that neither torch nor Pyro made")
        self.stack += [context, ANY]

    def on_call_intrinsic_1(self, instruction: dis.Instruction) -> None:
        if instruction.argrepr not in {"INTRINSIC_UNARY_POSITIVE", "INTRINSIC_LIST_TO_TUPLE"}:
            raise Doubt(f"it has an instruction {instruction.argrepr} whose effect is not known")
        self.pop(1)
        self.stack.append(ANY)

    def on_make_function(self, instruction: dis.Instruction) -> None:
        (code,) = self.pop(1)
        check_kept(self.pop(-dis.stack_effect(instruction.opcode, instruction.arg)))
        self.stack.append(code)

    def on_set_function_attribute(self, _: dis.Instruction) -> None:
        held, function = self.pop(2)
        check_kept([held])
        self.stack.append(function)

    def on_call(self, instruction: dis.Instruction) -> None:
        k = self.at[instruction.offset]
        before = self.instructions[max(k - 4, 0):k]
        names = next((self.code.co_consts[i.arg or 0] for i in before if i.opname == "KW_NAMES"), ())
        self.call(self.pop(instruction.arg or 0), names)

    def on_call_kw(self, instruction: dis.Instruction) -> None:
        self.pop(1)
        names = self.instructions[self.at[instruction.offset] - 1].argval
        self.call(self.pop(instruction.arg or 0), names)

    def call(self, arguments: list[Values], names: Collection[str]) -> None:
        first, second = self.pop(2)
        null = frozenset({NULL})
        if null not in (first, second):  # the second is the first argument, as of a decorator or a comprehension
            arguments = [second, *arguments]
        check_kept(arguments)
        callee = second if first == null else first
        self.stack.append(result(callee, len(arguments) - len(names), names))

    def on_call_function_ex(self, instruction: dis.Instruction) -> None:
        mapped = bool(instruction.arg & 1)  # type: ignore[operator]
        self.pop(1 + mapped)
        first, second = self.pop(2)
        self.stack.append(result(second if first == frozenset({NULL}) else first, sys.maxsize, ("out",) if mapped else ()))


def _effect(instruction: dis.Instruction, stack: tuple[Values, ...], jump: bool) -> tuple[Values, ...]:
    """Return the stack after a plain instruction."""
    new = instruction.opname in _PUSHED_NEW
    effect = dis.stack_effect(instruction.opcode, instruction.arg, jump=jump)
    popped = 1 - effect if new else max(_POPPED[instruction.opname], -effect)
    rest = len(stack) - popped
    check_kept(stack[rest:])
    return stack[:rest] + (MINE if new else ANY,) * (popped + effect)


def _joined(old: State | None, new: State) -> State:
    """Return a state that holds all that either holds."""
    if old is None:
        return new
    if len(old[0]) != len(new[0]):
        raise Doubt("its stack differs between two paths")
    local = {name: old[1].get(name, frozenset()) | new[1].get(name, frozenset()) for name in {**old[1], **new[1]}}
    return tuple(a | b for a, b in zip(old[0], new[0], strict=True)), local


