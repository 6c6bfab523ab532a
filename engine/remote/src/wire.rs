//! The protobuf encoding, as far as these messages use it.

/// Wire types.
pub const VARINT: u64 = 0;
pub const FIXED64: u64 = 1;
pub const BYTES: u64 = 2;
const FIXED32: u64 = 5;

const SHORT: &str = "the message ends early";

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a message, in their order.
#[derive(Clone)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Fields<'a> {
        Fields(message)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number is too long")
    }

    /// Number and value of the next field; None at the end.
    pub fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, &'static str> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            VARINT => Value::Varint(self.varint()?),
            FIXED64 => Value::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes"))),
            BYTES => {
                let length = self.varint()?;
                Value::Bytes(self.take(usize::try_from(length).map_err(|_| SHORT)?)?)
            }
            FIXED32 => Value::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes"))),
            _ => return Err("an unknown wire type"),
        };
        match key >> 3 {
            0 => Err("a field without a number"),
            number => Ok(Some((number, value))),
        }
    }
}

impl<'a> Value<'a> {
    pub fn bytes(self) -> Result<&'a [u8], &'static str> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err("a field is of another type"),
        }
    }

    pub fn text(self) -> Result<&'a str, &'static str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a text is not UTF-8")
    }

    pub fn number(self) -> Result<u64, &'static str> {
        match self {
            Value::Varint(value) => Ok(value),
            _ => Err("a field is of another type"),
        }
    }

    pub fn double(self) -> Result<f64, &'static str> {
        match self {
            Value::Fixed64(bits) => Ok(f64::from_bits(bits)),
            _ => Err("a field is of another type"),
        }
    }

    /// Numbers of a repeated field, packed or not.
    pub fn numbers(self, mut each: impl FnMut(u64)) -> Result<(), &'static str> {
        match self {
            Value::Varint(value) => each(value),
            Value::Bytes(bytes) => {
                let mut packed = Fields::new(bytes);
                while !packed.0.is_empty() {
                    each(packed.varint()?);
                }
            }
            _ => return Err("a field is of another type"),
        }
        Ok(())
    }
}

pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

pub fn put_number(field: u64, value: u64, out: &mut Vec<u8>) {
    put_varint(field << 3 | VARINT, out);
    put_varint(value, out);
}

pub fn put_double(field: u64, value: f64, out: &mut Vec<u8>) {
    put_varint(field << 3 | FIXED64, out);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

pub fn put_bytes(field: u64, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(field << 3 | BYTES, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
