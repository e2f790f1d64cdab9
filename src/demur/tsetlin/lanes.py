"""Vector instructions for 256 counters at a time, one bit of each counter per lane.

A Tsetlin machine moves counters between 0 and 255 by one. Held as eight bit planes (bit k of 256 counters lies in one
256-bit vector), one step of all of them is a ripple of and/xor over eight registers instead of 256 byte operations,
and the highest plane *is* the clause: a literal belongs to it when its counter is 128 or more.

LLVM does not find these vectors in plain loops (the planes might overlap, for all it knows), so the steps are
written as LLVM vectors of four 64-bit words; processors without 256-bit registers get them split.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LOW_PLANES = 7
WORDS = 4
BLOCK = WORDS * 64
LOW_WORDS = LOW_PLANES * WORDS

_WORD = ir.IntType(64)
_VECTOR = ir.VectorType(_WORD, WORDS)
_ONES = ir.Constant(_VECTOR, [-1] * WORDS)
_FIRST = ir.Constant(ir.VectorType(ir.IntType(32), WORDS), [0] * WORDS)


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any, position: int, words: int = 0) -> Any:
    array = context.make_array(signature.args[position])(context, builder, arguments[position])
    offset = builder.add(arguments[position + 1], ir.Constant(_WORD, words))
    return builder.bitcast(builder.gep(array.data, [offset]), _VECTOR.as_pointer())


def _load(context: Any, builder: Any, signature: Any, arguments: Any, position: int) -> Any:
    return builder.load(_pointer(context, builder, signature, arguments, position), align=8)


class _Emitter:
    """Writes one step of 256 counters; arguments come in pairs (array, offset in words)."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.build, self.arguments = builder, arguments
        self.given = (context, builder, signature, arguments)
        self.places = [_pointer(*self.given, 0, WORDS * k) for k in range(LOW_PLANES)] + [_pointer(*self.given, 2)]
        self.planes = [builder.load(place, align=8) for place in self.places]

    def vector(self, position: int) -> Any:
        return _load(*self.given, position)

    def everywhere(self, position: int) -> Any:
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = self.build.insert_element(undefined, self.arguments[position], ir.Constant(ir.IntType(32), 0))
        return self.build.shuffle_vector(first, undefined, _FIRST)

    def inverse(self, vector: Any) -> Any:
        return self.build.xor(vector, _ONES)

    def above_floor(self) -> Any:
        found = self.planes[0]
        for plane in self.planes[1:]:
            found = self.build.or_(found, plane)
        return found

    def below_ceiling(self) -> Any:
        full = self.planes[0]
        for plane in self.planes[1:]:
            full = self.build.and_(full, plane)
        return self.inverse(full)

    def decrease(self, lanes: Any) -> None:
        borrow = self.build.and_(lanes, self.above_floor())
        for place, plane in zip(self.places, self.planes, strict=True):
            self.build.store(self.build.xor(plane, borrow), place, align=8)
            borrow = self.build.and_(borrow, self.inverse(plane))

    def increase_excluded(self, lanes: Any) -> None:
        carry = self.build.and_(lanes, self.inverse(self.planes[-1]))
        for place, plane in zip(self.places, self.planes, strict=True):
            self.build.store(self.build.xor(plane, carry), place, align=8)
            carry = self.build.and_(carry, plane)

    def move(self, up: Any, down: Any) -> None:
        up, down = self.build.and_(up, self.below_ceiling()), self.build.and_(down, self.above_floor())
        moved = self.build.or_(up, down)
        self.build.store(self.build.xor(self.planes[0], moved), self.places[0], align=8)
        carry = self.build.and_(self.planes[0], moved)
        for place, plane in zip(self.places[1:], self.planes[1:], strict=True):
            added = self.build.xor(down, carry)  # minus one is all ones: every plane adds `down`
            self.build.store(self.build.xor(plane, added), place, align=8)
            carry = self.build.or_(self.build.and_(plane, added), self.build.and_(down, carry))


def _pairs(*arrays: Any) -> list[Any]:
    return [part for array in arrays for part in (array, types.int64)]


def _forget(_typing: Any, counters: Any, _c: Any, top: Any, _t: Any, chance: Any, _p: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        step = _Emitter(context, builder, signature, arguments)
        step.decrease(step.vector(4))
        return context.get_dummy_value()

    return types.void(*_pairs(counters, top, chance)), emit


def _recognise(negated: bool) -> Any:
    def typed(
        _typing: Any, counters: Any, _c: Any, top: Any, _t: Any, x: Any, _x: Any, real: Any, _r: Any, chance: Any,
        _p: Any, _boost: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            step = _Emitter(context, builder, signature, arguments)
            present, chance_lanes = step.vector(4), step.vector(8)
            true = builder.and_(step.inverse(present), step.vector(6)) if negated else present
            up = builder.and_(true, builder.or_(step.everywhere(10), step.inverse(chance_lanes)))
            step.move(up, builder.and_(step.inverse(true), chance_lanes))
            return context.get_dummy_value()

        return types.void(*_pairs(counters, top, x, real, chance), types.uint64), emit

    return intrinsic(typed)


def _reject(negated: bool) -> Any:
    def typed(_typing: Any, counters: Any, _c: Any, top: Any, _t: Any, x: Any, _x: Any, real: Any, _r: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            step = _Emitter(context, builder, signature, arguments)
            present = step.vector(4)
            false = present if negated else builder.and_(step.inverse(present), step.vector(6))
            step.increase_excluded(false)
            return context.get_dummy_value()

        return types.void(*_pairs(counters, top, x, real)), emit

    return intrinsic(typed)


def _breaks(negated: bool) -> Any:
    def typed(_typing: Any, included: Any, _t: Any, packed: Any, _x: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            wanted, present = (_load(context, builder, signature, arguments, place) for place in (0, 2))
            broken = builder.and_(wanted, present if negated else builder.xor(present, _ONES))
            whole = ir.IntType(BLOCK)
            return builder.icmp_unsigned("!=", builder.bitcast(broken, whole), ir.Constant(whole, 0))

        return types.boolean(*_pairs(included, packed)), emit

    return intrinsic(typed)


def _bits(_typing: Any, _word: Any) -> Any:
    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), emit


forget_block: Any = intrinsic(_forget)
recognise_present: Any = _recognise(negated=False)
recognise_absent: Any = _recognise(negated=True)
reject_present: Any = _reject(negated=False)
reject_absent: Any = _reject(negated=True)
breaks_present: Any = _breaks(negated=False)
breaks_absent: Any = _breaks(negated=True)
count_bits: Any = intrinsic(_bits)
