"""Types that hold every value of another one, unchanged."""

from __future__ import annotations

from pyspark.sql import types as T

_DIGITS: dict[type[T.DataType], int] = {T.ByteType: 3, T.ShortType: 5, T.IntegerType: 10, T.LongType: 19}
"""Decimal digits of the whole numbers, from the narrowest to the widest."""

_FLOATS: dict[type[T.DataType], int] = {T.FloatType: 7, T.DoubleType: 15}
"""Decimal digits that floats keep: whole numbers of up to as many stay what they are."""


def wider(one: T.DataType, other: T.DataType) -> T.DataType | None:
    """The type that holds the values of both, in structs with the fields of both; None if neither type does.

    >>> wider(T.IntegerType(), T.LongType()), wider(T.LongType(), T.DoubleType())
    (LongType(), None)
    >>> wider(T.StructType().add("n", "integer"), T.StructType().add("n", "long").add("host", "string")).simpleString()
    'struct<n:bigint,host:string>'
    """
    if isinstance(one, T.StructType) and isinstance(other, T.StructType):
        return _fields(one, other)
    if isinstance(one, T.ArrayType) and isinstance(other, T.ArrayType):
        element = wider(one.elementType, other.elementType)
        return element and T.ArrayType(element)
    if isinstance(one, T.MapType) and isinstance(other, T.MapType):
        key, value = wider(one.keyType, other.keyType), wider(one.valueType, other.valueType)
        return key and value and T.MapType(key, value)
    if one == other or _holds(other, one):
        return other
    return one if _holds(one, other) else None


def _fields(one: T.StructType, other: T.StructType) -> T.StructType | None:
    """The fields of both, by their names as Spark resolves them: whatever their case."""
    fields = {field.name.lower(): field for field in one}
    if len(fields) < len(one) or len({field.name.lower() for field in other}) < len(other):
        return None  # names that differ in their case alone
    for field in other:
        known = fields.get(field.name.lower())
        kind = wider(known.dataType, field.dataType) if known else field.dataType
        if kind is None:
            return None
        fields[field.name.lower()] = T.StructField(known.name if known else field.name, kind)
    return T.StructType(list(fields.values()))


def _holds(wide: T.DataType, narrow: T.DataType) -> bool:
    digits = _DIGITS.get(type(narrow))
    if digits is not None:
        if isinstance(wide, T.DecimalType):
            return wide.precision - wide.scale >= digits
        return digits <= (_DIGITS | _FLOATS).get(type(wide), 0)
    if isinstance(narrow, T.DecimalType) and isinstance(wide, T.DecimalType):
        return wide.scale >= narrow.scale and wide.precision - wide.scale >= narrow.precision - narrow.scale
    return isinstance(narrow, T.FloatType) and isinstance(wide, T.DoubleType)
