// SPDX-License-Identifier: GPL-3.0-only
//! A request's path in the one form in which it is matched against routes and forwarded, so that no two spellings of a
//! path meet different rules.
//!
//! RFC 3986 section 6.2.2: escapes of unreserved characters are decoded, the others' digits are upper case, dot segments
//! are removed. Beyond it, runs of slashes become one, as most servers take them. What goes above the root, or is no valid
//! escape, has no such form. `exchange::hygiene` applies it to requests, the configuration to the paths of routes.

use std::borrow::Cow;
use std::fmt;

/// Why a path has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// A `%` without two hexadecimal digits behind it.
    Escape,
    /// `%00`: where strings end at NUL, what follows it would be hidden.
    Nul,
    /// `..` beyond the root.
    AboveRoot,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PathError::Escape => "has a \"%\" without two hexadecimal digits behind it",
            PathError::Nul => "has %00",
            PathError::AboveRoot => "goes above the root",
        })
    }
}

impl std::error::Error for PathError {}

/// The normal form of a path that begins with `/`; the query behind it stays as it is.
pub fn normal(target: &[u8]) -> Result<Cow<'_, [u8]>, PathError> {
    let query = target.iter().position(|&b| b == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(query);
    let special = path.contains(&b'%') || path.windows(2).any(|pair| matches!(pair, b"//" | b"/."));
    if !special {
        return Ok(Cow::Borrowed(target));
    }
    let mut out = without_dots(&decoded(path)?)?;
    out.extend_from_slice(query);
    Ok(Cow::Owned(out))
}

fn decoded(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let [high, low, after @ ..] = rest else { return Err(PathError::Escape) };
        let digit = |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (Some(upper), Some(lower)) = (digit(*high), digit(*low)) else { return Err(PathError::Escape) };
        rest = after;
        match upper << 4 | lower {
            0 => return Err(PathError::Nul),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(byte),
            _ => out.extend_from_slice(&[b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]),
        }
    }
    Ok(out)
}

/// RFC 3986 section 5.2.4, with an error where that algorithm would quietly stay at the root.
fn without_dots(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut directory = false;
    for segment in path.split(|&b| b == b'/').skip(1) {
        directory = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => {
                kept.pop().ok_or(PathError::AboveRoot)?;
            }
            name => kept.push(name),
        }
    }
    let mut out = Vec::with_capacity(path.len());
    for segment in kept {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if directory || out.is_empty() {
        out.push(b'/');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_path_becomes_one() {
        for (given, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a.b/.c/..d/...", "/a.b/.c/..d/..."),
            ("/public/../x", "/x"),
            ("/public/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/./b/.", "/a/b/"),
            ("/%70ublic", "/public"),
            ("/a/%2e%2E/b", "/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/%41%5a%7E%e4", "/AZ~%E4"),
            ("//public", "/public"),
            ("/a//b///", "/a/b/"),
            ("/./public", "/public"),
            ("/a/..?x=/../%zz", "/?x=/../%zz"),
            ("/a?//", "/a?//"),
        ] {
            let normal = normal(given.as_bytes()).unwrap();
            assert_eq!(String::from_utf8_lossy(&normal), expected, "{given}");
            assert_eq!(super::normal(&normal).unwrap(), normal, "{given}: what is normal stays");
        }
    }

    #[test]
    fn what_has_no_normal_form_says_why() {
        for (given, error) in [
            ("/%", PathError::Escape),
            ("/%4", PathError::Escape),
            ("/%zz", PathError::Escape),
            ("/%+1", PathError::Escape),
            ("/a%00b", PathError::Nul),
            ("/..", PathError::AboveRoot),
            ("/a/../../b", PathError::AboveRoot),
            ("/%2e%2e/b", PathError::AboveRoot),
        ] {
            assert_eq!(normal(given.as_bytes()), Err(error), "{given}");
        }
    }
}
