"""Sine, cosine, tangent and their inverses, of lanes. Bounds and conventions: vectormath.py.

Angles are reduced to ±π/4 in float64, for float32 too: then no digit of the remainder is lost.
"""

from __future__ import annotations

from chainrule.backends.native import coefficients as table
from chainrule.backends.native.emit import Function, Module
from chainrule.backends.native.lanes import (
    FLOAT64,
    SIGNED,
    Lanes,
    copysign,
    fma,
    in_float64,
    magnitude,
    outlined,
    polynomial,
    select,
    sqrt,
)
from chainrule.backends.native.values import INDEX, POINTER, Index, Value, constant, scalar_of

FAR = 2.0**20
"""Up to here a quarter turn in short pieces, times how many there are, is exact."""

PI, PI_REST = 3.141592653589793, 1.2246467991473532e-16


# -- angles --------------------------------------------------------------------------------------------------
def _reduced(x: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """(r, low, n) with x = n π/2 + r + low and |r| <= π/4; x is float64, n an integer modulo 4.

    Whole quarter turns are subtracted in pieces so short that their products with n are exact; `low` is what
    rounding loses on the way.
    """
    magic = 1.5 * 2.0**52
    shifted = fma(x, 2 / PI, magic)
    n = shifted - magic
    first, second, third, fourth = table.HALF_PI
    start = fma(n, -first, x)
    near = fma(n, -second, start)
    rest = fma(n, -fourth, fma(n, -third, fma(n, -second, start - near)))
    r = near + rest
    return _far_lanes(x, r, (near - r) + rest, shifted.bits())


def _far_lanes(x: Lanes, r: Lanes, low: Lanes, n: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """(r, low, n), computed anew where |x| is beyond `FAR`: lane by lane, and only if there is one."""
    function, count = x.function, x.count
    far = (magnitude(x) > FAR) & (magnitude(x) < float("inf"))
    given, *found = (function.allocate(scalar_of(each.value.type), count) for each in (x, r, low, n))
    for value, place in zip((x, r, low, n), (given, *found), strict=True):
        function.store(value.value, place)

    def anew() -> None:
        function.loop(0, count, 1, [], lane)

    def lane(k: Index, _: list[Value]) -> None:
        one = Lanes(function, function.load(function.at(given, k, "double"), "double"), FLOAT64)
        targets = [function.at(place, k, "i64") for place in found]  # an i64 is as wide as a double

        def reduce() -> None:
            function.call(_far_reduction(function.module), "void", [one.value, *targets])

        function.if_then(((magnitude(one) > FAR) & (magnitude(one) < float("inf"))).value, reduce)

    function.if_then(function.reduce("any", far.value), anew)
    r, low = (x.like(function.load(place, x.value.type)) for place in found[:2])
    return r, low, n.like(function.load(found[2], n.value.type))


def _far_reduction(module: Module) -> str:
    """A function ``(double x, ptr r, ptr low, ptr n)`` for one finite |x| >= 1, exact for all of them.

    After Payne and Hanek: x is a 53-bit integer m times 2ᵉ. Of 2/π only 192 bits matter: those above make
    multiples of four quarter turns, those below too little. Their product with m, modulo 2¹⁹², is the angle
    in quarter turns: two bits before the point, 190 behind it.
    """
    name = "far_angle"
    if name in module.functions:
        return name
    function = Function(module, name, [("x", "double"), ("r", POINTER), ("low", POINTER), ("n", POINTER)])
    x, *angle_places, quadrant = function.arguments
    emit, binary = function.emit, function.binary

    def wide(value: int) -> Value:
        return constant(value, "i192")

    bits = emit("i64", f"bitcast {x} to i64")
    exponent = binary("and", emit("i64", f"lshr {bits}, 52"), constant(0x7FF, INDEX))  # e + 1075
    mantissa = binary("or", binary("and", bits, constant((1 << 52) - 1, INDEX)), constant(1 << 52, INDEX))
    digits = _digits_that_matter(function, exponent)
    product = binary("mul", digits, emit("i192", f"zext {mantissa} to i192"))
    behind = binary("shl", product, wide(2))  # the digits behind the point, as a signed number in ±1/2
    negative = function.compare("slt", behind, wide(0))
    whole = emit("i64", f"trunc {binary('lshr', product, wide(190))} to i64")
    whole = binary("add", whole, emit("i64", f"zext {negative} to i64"))
    size_behind = function.select(negative, binary("sub", wide(0), behind), behind)
    function.module.declare("llvm.ctlz.i192", "i192", ["i192", "i1"])
    zeros = function.call("llvm.ctlz.i192", "i192", [size_behind, Value("false", "i1")])
    leading = binary("lshr", binary("shl", size_behind, zeros), wide(129))  # 63 digits
    # In radians, as a 63-bit integer: its leading digits are r, the others low.
    half_pi = constant((1 << (table.TWO_OVER_PI_BITS + 62)) // table.TWO_OVER_PI, "i128")
    radians = binary("mul", emit("i128", f"trunc {leading} to i128"), half_pi)
    radians = emit("i64", f"trunc {binary('lshr', radians, constant(63, 'i128'))} to i64")
    high = emit("double", f"sitofp {radians} to double")
    rest = binary("sub", radians, emit("i64", f"fptosi {high} to i64"))
    scale = binary("sub", constant(1023 - 62, INDEX), emit("i64", f"trunc {zeros} to i64"))
    scale = emit("double", f"bitcast {binary('shl', scale, constant(52, INDEX))} to double")
    below = function.compare("slt", bits, constant(0, INDEX))
    scale = function.select(binary("xor", negative, below), emit("double", f"fneg {scale}"), scale)
    for number, place in zip((high, emit("double", f"sitofp {rest} to double")), angle_places, strict=True):
        function.store(binary("fmul", number, scale), place)
    function.store(function.select(below, binary("sub", constant(0, INDEX), whole), whole), quadrant)
    function.give_back()
    return name


def _digits_that_matter(function: Function, exponent: Value) -> Value:
    """192 bits of 2/π, the first that do not make multiples of four quarter turns."""
    # Little endian, with zeros above for small exponents: bit b of the table counts 2 ** (b - bits).
    size = table.TWO_OVER_PI_BITS // 8
    given = map(str, table.TWO_OVER_PI.to_bytes(size + 40, "little"))
    digits = function.module.table("two_over_pi", "i8", given)
    first = function.binary("sub", constant(table.TWO_OVER_PI_BITS - 190 + 1075, INDEX), exponent)
    address = function.at(digits, function.emit("i64", f"lshr {first}, 3"), "i8")
    window = function.load(address, "i256", align=1)
    shift = function.emit("i256", f"zext {function.binary('and', first, constant(7, INDEX))} to i256")
    return function.emit("i192", f"trunc {function.binary('lshr', window, shift)} to i192")


def _sine_cosine(x: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """sin(r), cos(r) and n, for x = n π/2 + r; n is an integer as wide as x."""
    r, low, n = _reduced(x.astype(FLOAT64))
    r, low, n = r.astype(x.dtype), low.astype(x.dtype), n.astype(SIGNED[x.dtype.itemsize])
    z = r * r
    half = z * 0.5
    most = 1 - half
    sine = r + fma(r * z, polynomial(z, table.SINE[x.dtype.name]), low)
    small = fma(z * z, polynomial(z, table.COSINE[x.dtype.name]), (1 - most) - half)
    return sine, most + fma(-r, low, small), n


def _turned(x: Lanes, n: Lanes, sine: Lanes, cosine: Lanes) -> Lanes:
    """The sine n quarter turns on; NaN for infinite x."""
    value = select((n & 1).equals(0), sine, cosine)
    sign = (n & 2) << (x.dtype.itemsize * 8 - 2)
    value = (value.bits() ^ sign).reinterpret(x.dtype)
    return select(magnitude(x) < float("inf"), value, float("nan"))


@outlined
def sin(x: Lanes) -> Lanes:
    """Sine."""
    sine, cosine, n = _sine_cosine(x)
    return select(x.equals(0), x, _turned(x, n, sine, cosine))


@outlined
def cos(x: Lanes) -> Lanes:
    """Cosine: the sine a quarter turn on."""
    sine, cosine, n = _sine_cosine(x)
    return _turned(x, n + 1, sine, cosine)


@in_float64
@outlined
def tan(x: Lanes) -> Lanes:
    """Tangent."""
    sine, cosine, n = _sine_cosine(x)
    even = (n & 1).equals(0)
    value = select(even, sine, -cosine) / select(even, cosine, sine)
    return select(x.equals(0), x, select(magnitude(x) < float("inf"), value, float("nan")))


# -- inverses ------------------------------------------------------------------------------------------------
def _arcsine_parts(x: Lanes) -> tuple[Lanes, Lanes]:
    """(beyond, p): p = asin|x| for |x| <= 1/2; beyond, p = asin(sqrt((1 - |x|) / 2))."""
    a = magnitude(x)
    beyond = a > 0.5
    z = select(beyond, fma(a, -0.5, 0.5), a * a)
    s = select(beyond, sqrt(z), a)
    return beyond, fma(s * z, polynomial(z, table.ARCSINE["float64"]), s)


@in_float64
@outlined
def asin(x: Lanes) -> Lanes:
    """Inverse sine; NaN beyond ±1."""
    beyond, p = _arcsine_parts(x)
    return copysign(select(beyond, PI / 2 - (p + p - PI_REST / 2), p), x)


@in_float64
@outlined
def acos(x: Lanes) -> Lanes:
    """Inverse cosine; NaN beyond ±1."""
    beyond, p = _arcsine_parts(x)
    near = PI / 2 - (copysign(p, x) - PI_REST / 2)
    return select(beyond, select(x < 0, PI - (p + p - PI_REST), p + p), near)


def _arctangent(a: Lanes, b: Lanes) -> Lanes:
    """The angle of the point (b, a) for a, b >= 0: the smaller over the larger, turned back if beyond π/8."""
    steep = a > b
    smaller, larger = select(steep, b, a), select(steep, a, b)
    scale = select(larger > 2.0**1000, larger.constant(0.25), 1.0)
    scale = select(larger < 2.0**-900, 2.0**100, scale)
    smaller, larger = (
        smaller * scale,
        larger * scale,
    )  # so that neither their sum nor their difference is lost
    beyond = smaller > larger * 0.4142135623730951
    t = select(beyond, smaller - larger, smaller) / select(beyond, smaller + larger, larger)
    z = t * t
    p = fma(t * z, polynomial(z, table.ARCTANGENT["float64"]), t)
    p = select(beyond, PI / 4 + (p + PI_REST / 4), p)
    return select(steep, PI / 2 - (p - PI_REST / 2), p)


@in_float64
@outlined
def atan(x: Lanes) -> Lanes:
    """Inverse tangent."""
    a = magnitude(x)
    infinite = a.equals(float("inf"))
    return copysign(select(infinite, PI / 2, _arctangent(select(infinite, 0.0, a), x.constant(1))), x)


@in_float64
@outlined
def atan2(a: Lanes, b: Lanes) -> Lanes:
    """The angle of the point (b, a), in ±π. At the origin b counts as 1; two infinities are equal."""
    rise, run = magnitude(a), magnitude(b)
    both = rise.equals(float("inf")) & run.equals(float("inf"))
    nowhere = (rise + run).equals(0)
    rise, run = select(both, 1.0, rise), select(both | nowhere, 1.0, run)
    angle = _arctangent(rise, run)
    back = b.bits() < 0
    return copysign(select(back, PI - (angle - PI_REST), angle), a)
