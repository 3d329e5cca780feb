// SPDX-License-Identifier: GPL-3.0-only
//! Bytes of a type as a map holds them, without `unsafe`: each field writes and reads itself.

use crate::{Addr, Be16};

/// A key or value of a map.
pub trait Plain: Copy {
    /// An array of the type's exact size.
    type Bytes: AsRef<[u8]>;
    /// The bytes that the kernel sees: host byte order except for addresses and ports, no uninitialised padding.
    fn to_bytes(&self) -> Self::Bytes;
    /// The value behind these bytes; `None` unless there are exactly as many as the type has.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

/// A field: puts itself at the front of what is left, and takes itself from there.
pub(crate) trait Field: Sized {
    fn put(&self, out: &mut dyn Iterator<Item = &mut u8>);
    fn take(input: &mut &[u8]) -> Option<Self>;
}

fn put_bytes(bytes: &[u8], out: &mut dyn Iterator<Item = &mut u8>) {
    for (from, to) in bytes.iter().zip(out) {
        *to = *from;
    }
}

fn take_bytes<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = input.split_first_chunk::<N>()?;
    *input = tail;
    Some(*head)
}

macro_rules! integers {
    ($($int:ty),*) => {$(
        impl Field for $int {
            fn put(&self, out: &mut dyn Iterator<Item = &mut u8>) {
                put_bytes(&self.to_ne_bytes(), out);
            }
            fn take(input: &mut &[u8]) -> Option<Self> {
                take_bytes(input).map(<$int>::from_ne_bytes)
            }
        }
        impl Plain for $int {
            type Bytes = [u8; size_of::<$int>()];
            fn to_bytes(&self) -> Self::Bytes {
                self.to_ne_bytes()
            }
            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(<$int>::from_ne_bytes)
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, i64);

impl<const N: usize> Field for [u8; N] {
    fn put(&self, out: &mut dyn Iterator<Item = &mut u8>) {
        put_bytes(self, out);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        take_bytes(input)
    }
}

impl Field for [u64; 2] {
    fn put(&self, out: &mut dyn Iterator<Item = &mut u8>) {
        for word in self {
            word.put(out);
        }
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        Some([u64::take(input)?, u64::take(input)?])
    }
}

impl Field for Addr {
    fn put(&self, out: &mut dyn Iterator<Item = &mut u8>) {
        put_bytes(&self.b, out);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        take_bytes(input).map(|b| Addr { b })
    }
}

impl Plain for Addr {
    type Bytes = [u8; 16];
    fn to_bytes(&self) -> Self::Bytes {
        self.b
    }
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|b| Addr { b })
    }
}

impl Field for Be16 {
    fn put(&self, out: &mut dyn Iterator<Item = &mut u8>) {
        put_bytes(&self.0, out);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        take_bytes(input).map(Be16)
    }
}

impl Field for crate::Bucket {
    fn put(&self, out: &mut dyn Iterator<Item = &mut u8>) {
        put_bytes(&self.to_bytes(), out);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        take_bytes::<16>(input).and_then(|b| crate::Bucket::from_bytes(&b))
    }
}

impl Field for crate::FlowKey {
    fn put(&self, out: &mut dyn Iterator<Item = &mut u8>) {
        put_bytes(&self.to_bytes(), out);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        take_bytes::<40>(input).and_then(|b| crate::FlowKey::from_bytes(&b))
    }
}

impl Field for crate::FragKey {
    fn put(&self, out: &mut dyn Iterator<Item = &mut u8>) {
        put_bytes(&self.to_bytes(), out);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        take_bytes::<40>(input).and_then(|b| crate::FragKey::from_bytes(&b))
    }
}

impl<const N: usize> Field for [crate::FragRange; N] {
    fn put(&self, out: &mut dyn Iterator<Item = &mut u8>) {
        for range in self {
            range.from.put(out);
            range.to.put(out);
        }
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        let mut ranges = [crate::FragRange::default(); N];
        for range in &mut ranges {
            *range = crate::FragRange { from: u16::take(input)?, to: u16::take(input)? };
        }
        Some(ranges)
    }
}

/// Declares a struct of the ABI: fields in the C order, padding named, and its conversion to and from bytes.
macro_rules! plain_struct {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name { $($(#[$field_doc])* pub $field: $ty,)* }

        // Fields leave no hole that the bytes would not cover.
        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$ty>())*);

        impl crate::Plain for $name {
            type Bytes = [u8; size_of::<$name>()];
            fn to_bytes(&self) -> Self::Bytes {
                let mut bytes = [0; size_of::<$name>()];
                let mut out = bytes.iter_mut();
                $(crate::plain::Field::put(&self.$field, &mut out.by_ref().take(size_of::<$ty>()));)*
                bytes
            }
            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                let mut input = bytes;
                let value = $name { $($field: crate::plain::Field::take(&mut input)?,)* };
                input.is_empty().then_some(value)
            }
        }
    };
}
pub(crate) use plain_struct;

#[cfg(test)]
mod tests {
    use crate::{FlowKey, Plain, VipKey};

    #[test]
    fn bytes_lie_in_field_order() {
        let key = VipKey::new("192.0.2.1:443".parse().unwrap(), 6);
        let bytes = key.to_bytes();
        assert_eq!(bytes[12..], [192, 0, 2, 1, 1, 187, 6, 0]);
        assert_eq!(VipKey::from_bytes(&bytes), Some(key));
    }

    #[test]
    fn a_slice_of_another_length_is_refused() {
        assert_eq!(FlowKey::from_bytes(&[0; 39]), None);
        assert_eq!(FlowKey::from_bytes(&[0; 41]), None);
        assert!(FlowKey::from_bytes(&[0; 40]).is_some());
    }
}
