// SPDX-License-Identifier: GPL-3.0-only
//! The proof of [`crate::layout`], for the types of `bpf/abi_backend.h`.

use std::mem::offset_of;

use eg_abi::backend as abi;

use crate::tc_backend::types as tc;

/// The first struct is ours, the second the generated one; every field of ours is named.
macro_rules! same_layout {
    ($(abi::$ours:ident == tc::$theirs:ident { $($field:ident),* })*) => {$(
        const _: () = {
            assert!(size_of::<abi::$ours>() == size_of::<tc::$theirs>());
            $(assert!(offset_of!(abi::$ours, $field) == offset_of!(tc::$theirs, $field));)*
            // A field that is not named above does not compile.
            const fn _every_field(value: abi::$ours) {
                let abi::$ours { $($field: _),* } = value;
            }
        };
    )*};
}

same_layout! {
    abi::DecAddr == tc::eg_dec_addr { ifindex, addr }
    abi::DecPrefix == tc::eg_dec_prefix { bits, ifindex, addr }
    abi::DecIface == tc::eg_dec_iface { name, mode, gue_port, pad }
}

#[cfg(test)]
mod tests {
    use super::abi;

    const HEADER: &str = include_str!("../../bpf/abi_backend.h");

    /// `#define NAME value` or `NAME = value,` in the header.
    fn header_value(name: &str) -> Option<u32> {
        HEADER.lines().find_map(|line| {
            let mut words = line.split([' ', '\t', ',', '=']).filter(|word| !word.is_empty());
            let first = words.next()?;
            let word = if first == "#define" { words.next()? } else { first };
            let value = words.next()?;
            (word == name).then(|| value.parse().ok()).flatten()
        })
    }

    #[test]
    fn backend_constants_are_the_headers() {
        for (name, ours) in [
            ("EG_BACKEND_ABI", abi::BACKEND_ABI),
            ("EG_DEC_ENTRIES", abi::DEC_ENTRIES),
            ("EG_DEC_IFACES", abi::DEC_IFACES),
        ] {
            assert_eq!(header_value(name), Some(ours), "{name}");
        }
    }

    #[test]
    fn backend_enum_codes_are_the_headers() {
        for mode in abi::DecMode::ALL {
            let name = format!("EG_DEC_{}", mode.label().to_uppercase());
            assert_eq!(header_value(&name), Some(mode.code()), "{name}");
        }
        for result in abi::Decap::ALL {
            let name = format!("EG_DECAP_{}", result.label().to_uppercase());
            assert_eq!(header_value(&name), Some(result.code()), "{name}");
        }
        let next = abi::Decap::ALL.iter().map(|result| result.code() + 1).max();
        assert_eq!(header_value("EG_DECAPS"), next, "EG_DECAPS");
    }
}
