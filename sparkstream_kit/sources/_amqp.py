"""Properties of messages whose senders speak AMQP, as Event Hubs and IoT Hub hand them to consumers that speak Kafka.

Each is a header of the record, and its value is encoded as AMQP 1.0 does it (part 1, types): a byte for the type, then
the value. Properties from senders that speak Kafka or HTTPS are headers with whatever bytes these have sent.
"""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

FIXED = {
    **dict.fromkeys(("40", "41", "42", "43", "44", "45"), 1),
    **dict.fromkeys(("50", "51", "52", "53", "54", "55", "56"), 2),
    **dict.fromkeys(("60", "61"), 3),
    **dict.fromkeys(("70", "71", "72", "73", "74"), 5),
    **dict.fromkeys(("80", "81", "82", "83", "84"), 9),
    **dict.fromkeys(("94", "98"), 17),
}
"""The bytes of a value whose type, in hex, has a fixed size."""

COUNTED = {
    **dict.fromkeys(("A0", "A1", "A3", "C0", "C1", "E0"), 1),
    **dict.fromkeys(("B0", "B1", "B3", "D0", "D1", "F0"), 4),
}
"""The bytes of the size of a value whose type has one: binary, strings and symbols, lists, maps and arrays."""

DESCRIBED = "00"
"""The type of a value that begins with what describes it."""

DATES = (-62_135_596_800_000, 253_402_300_799_999)
"""Milliseconds since 1970 in the years 1 to 9999; a timestamp outside of them is null."""

UNSIGNED, SIGNED = ("50", "52", "53", "60", "70", "80"), ("51", "54", "55", "61", "71", "81")
CONSTANT = {"41": "true", "42": "false", "5601": "true", "5600": "false", "43": "0", "44": "0"}


def properties(headers: Column) -> Column:
    """The headers of a record as a map<string, string>; of two with one name the last one counts.

    They are those of a sender that speaks AMQP if all are whole AMQP values, and not all of them are plain text, too.
    Timestamps are in ISO 8601. Anything else is taken for text.
    """
    known = F.coalesce(headers, F.array().cast("array<struct<key: string, value: binary>>"))
    is_amqp = F.forall(known, lambda each: _is_whole(each.value)) & ~F.forall(known, lambda each: _is_plain(each.value))

    def is_last(each: Column, at: Column) -> Column:
        return ~F.exists(F.slice(known, at + 2, F.size(known)), lambda later: later.key == each.key)

    def entry(each: Column) -> Column:
        text = F.when(is_amqp, _text(each.value)).otherwise(each.value.cast("string"))
        return F.struct(each.key.alias("key"), text.alias("value"))

    return F.map_from_entries(F.transform(F.filter(known, is_last), entry))


def _hex(value: Column, at: int = 1, size: int | None = None) -> Column:
    """Bytes of a value in hex, the first one being 1."""
    return F.substring(F.hex(value), 2 * at - 1, 2 * size if size else 2**31 - 1)


def _number(bits: Column) -> Column:
    return F.conv(bits, 16, 10).cast("decimal(20,0)")


def _is_whole(value: Column) -> Column:
    kind, size = _hex(value, 1, 1), F.octet_length(value)
    found = (kind == DESCRIBED) & (size > 2)
    for code, width in COUNTED.items():
        found = F.when(kind == code, _number(_hex(value, 2, width)) == size - 1 - width).otherwise(found)
    for width in set(FIXED.values()):
        codes = [code for code, fixed in FIXED.items() if fixed == width]
        found = F.when(kind.isin(codes), size == width).otherwise(found)
    return F.coalesce(found, F.lit(False))


def _is_plain(value: Column) -> Column:
    """Whether the bytes are printable ASCII."""
    return F.hex(value).rlike("^(2[0-9A-F]|[3-6][0-9A-F]|7[0-9A-E])*$")


def _text(value: Column) -> Column:
    """An AMQP value as text; null for characters, decimals, lists, maps, arrays, and values that are described."""
    kind, bits = _hex(value, 1, 1), _hex(value, 2)
    sign = F.when(F.substring(bits, 1, 1) >= "8", "F").otherwise("0")
    signed = F.conv(F.lpad(bits, F.lit(16), sign), 16, -10)
    millis = signed.cast("bigint")
    seconds = (F.when(millis.between(*DATES), millis).cast("decimal(15,0)") / 1000).cast("decimal(18,6)")
    at = F.expr("timestamp_ntz'1970-01-01'") + F.make_dt_interval(secs=seconds)
    text = F.lit(None).cast("string")
    for codes, meaning in (
        (("83",), F.concat(F.translate(at.cast("string"), " ", "T"), F.lit("Z"))),
        (("98",), F.regexp_replace(F.lower(bits), "(.{8})(.{4})(.{4})(.{4})(.{12})", "$1-$2-$3-$4-$5")),
        (("72",), _float(signed, 23, 127).cast("float").cast("string")),
        (("82",), _float(F.conv(bits, 16, -10), 52, 1023).cast("string")),
        (UNSIGNED, F.conv(bits, 16, 10)),
        (SIGNED, signed),
        (("A0", "A1", "A3"), F.substring(value, 3, 2**31 - 1).cast("string")),
        (("B0", "B1", "B3"), F.substring(value, 6, 2**31 - 1).cast("string")),
    ):
        text = F.when(kind.isin(*codes), meaning).otherwise(text)
    for code, constant in CONSTANT.items():
        text = F.when(F.hex(value) == code, constant).otherwise(text)
    return text


def _float(bits: Column, width: int, bias: int) -> Column:
    """A number of IEEE 754, whose fraction has `width` bits, from its bits: a bigint, as text."""
    number, highest = bits.cast("bigint"), 2 * bias + 1
    fraction = number.bitwiseAND(F.lit(2**width - 1))
    exponent = F.shiftright(number, width).bitwiseAND(F.lit(highest))
    size = (
        F.when(exponent == 0, fraction * F.pow(F.lit(2.0), F.lit(1.0 - bias - width)))
        .when(exponent < highest, (fraction + 2**width) * F.pow(F.lit(2.0), exponent - (bias + width)))
        .when(fraction == 0, F.lit(float("inf")))
        .otherwise(F.lit(float("nan")))
    )
    return F.when(number < 0, -size).otherwise(size)
