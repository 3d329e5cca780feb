// SPDX-License-Identifier: GPL-3.0-only
//! Reads typed values out of a TOML table, with the place of each, and remembers which keys it was asked for.
//!
//! `schema` is its only caller. A key that nobody asked for is an error when the section is finished, so the schema is
//! the list of keys and there is no second list to forget. A wrong value is reported and read as absent: the file is
//! refused in any case, and everything after it is still looked at.

use std::fmt;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{At, Place, Problems};
use super::suggest::hint;

type Value<'a> = &'a Spanned<DeValue<'a>>;

/// One table of the file; an absent one reads as empty.
pub(crate) struct Section<'a> {
    table: Option<&'a DeTable<'a>>,
    place: Place,
    asked: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    pub(crate) fn root(table: &'a DeTable<'a>, problems: &'a Problems) -> Self {
        Self { table: Some(table), place: Place { offset: 0, path: String::new() }, asked: Vec::new(), problems }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Reports every key that was never asked for.
    pub(crate) fn finish(self) {
        for key in self.table.into_iter().flat_map(DeTable::keys) {
            let name = key.get_ref().as_ref();
            if !self.asked.contains(&name) {
                let place = Place { offset: key.span().start, path: join(&self.place.path, name) };
                let hint = hint(name, self.asked.iter().copied());
                let known = if hint.is_empty() { format!("; known here: {}", self.asked.join(", ")) } else { hint };
                self.problems.error(&place, format!("unknown key{known}"));
            }
        }
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Option<At<String>> {
        let (value, place) = self.value(key)?;
        self.expect(value, place, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub(crate) fn flag(&mut self, key: &'static str) -> Option<At<bool>> {
        let (value, place) = self.value(key)?;
        self.expect(value, place, "true or false", DeValue::as_bool)
    }

    pub(crate) fn number(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<At<u64>> {
        let (value, place) = self.value(key)?;
        let what = format!("a whole number from {} to {}", range.start(), range.end());
        let integer = self.expect(value, place, &what, |value| {
            let integer = value.as_integer()?;
            Some(i128::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()))
        })?;
        match integer.value.ok().and_then(|number| u64::try_from(number).ok()).filter(|number| range.contains(number)) {
            Some(number) => Some(At { value: number, place: integer.place }),
            None => {
                self.problems.error(&integer.place, format!("expected {what}"));
                None
            }
        }
    }

    /// One of a closed set of words.
    pub(crate) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> Option<At<T>> {
        let text = self.text(key)?;
        match words.iter().find(|(word, _)| *word == text.value) {
            Some((_, meaning)) => Some(text.map(|_| *meaning)),
            None => {
                let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                let hint = hint(&text.value, known.iter().copied());
                let all = known.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
                self.problems.error(&text.place, format!("{:?} is not one of {all}{hint}", text.value));
                None
            }
        }
    }

    /// A string that `parse` turns into something better; its error says what was expected.
    pub(crate) fn parsed<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<At<T>> {
        let text = self.text(key)?;
        match parse(&text.value) {
            Ok(value) => Some(text.map(|_| value)),
            Err(error) => {
                self.problems.error(&text.place, error.to_string());
                None
            }
        }
    }

    /// A string or a list of strings, each parsed. `None` if the key is absent or not of that shape.
    pub(crate) fn list<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        single_too: bool,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<At<Vec<At<T>>>> {
        let (value, place) = self.value(key)?;
        if single_too && value.get_ref().is_str() {
            return Some(At { place, value: self.parsed(key, parse).into_iter().collect() });
        }
        let what = if single_too { "a string or a list of strings" } else { "a list of strings" };
        let array = self.expect(value, place, what, DeValue::as_array)?;
        let mut found = Vec::new();
        for (index, item) in array.value.iter().enumerate() {
            let place = Place { offset: item.span().start, path: format!("{}[{index}]", array.place.path) };
            let text = self.expect(item, place, "a string", |value| value.as_str().map(str::to_owned));
            match text.map(|text| (parse(&text.value), text.place)) {
                Some((Ok(value), place)) => found.push(At { value, place }),
                Some((Err(error), place)) => self.problems.error(&place, error.to_string()),
                None => {}
            }
        }
        Some(At { value: found, place: array.place })
    }

    /// The table under `key`, or an empty one.
    pub(crate) fn section(&mut self, key: &'static str) -> Section<'a> {
        self.section_if_present(key).unwrap_or_else(|| self.below(None, 0, join(&self.place.path, key)))
    }

    pub(crate) fn section_if_present(&mut self, key: &'static str) -> Option<Section<'a>> {
        let (value, place) = self.value(key)?;
        let table = self.expect(value, place, "a table", DeValue::as_table)?;
        Some(self.below(Some(table.value), table.place.offset, table.place.path))
    }

    /// `[[key]]`, in the file's order.
    pub(crate) fn tables(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some((value, place)) = self.value(key) else { return Vec::new() };
        let what = format!("a list of tables, written [[{}]]", place.path);
        let Some(array) = self.expect(value, place, &what, DeValue::as_array) else { return Vec::new() };
        let mut found = Vec::new();
        for (index, item) in array.value.iter().enumerate() {
            let place = Place { offset: item.span().start, path: format!("{}[{index}]", array.place.path) };
            if let Some(table) = self.expect(item, place, "a table", DeValue::as_table) {
                found.push(self.below(Some(table.value), table.place.offset, table.place.path));
            }
        }
        found
    }

    /// `[key.NAME]`, by name.
    pub(crate) fn named_tables(&mut self, key: &'static str) -> Vec<(At<String>, Section<'a>)> {
        let section = self.section(key);
        let mut found = Vec::new();
        for (name, value) in section.table.into_iter().flatten() {
            let place = Place { offset: name.span().start, path: join(&section.place.path, name.get_ref()) };
            if let Some(table) = self.expect(value, place.clone(), "a table", DeValue::as_table) {
                let below = self.below(Some(table.value), place.offset, place.path.clone());
                found.push((At { value: name.get_ref().to_string(), place }, below));
            }
        }
        found
    }

    pub(crate) fn missing(&self, key: &str, what: &str) {
        self.problems.error(&self.place, format!("missing {key}: {what}"));
    }

    pub(crate) fn conflict(&self, message: &str) {
        self.problems.error(&self.place, message);
    }

    /// Not one key is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_none_or(|table| table.is_empty())
    }

    /// The key is not there, or is an empty list.
    pub(crate) fn absent(&self, key: &str) -> bool {
        let value = self.table.and_then(|table| table.get(key));
        value.is_none_or(|value| value.get_ref().as_array().is_some_and(|list| list.is_empty()))
    }

    fn value(&mut self, key: &'static str) -> Option<(Value<'a>, Place)> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        let value = self.table?.get(key)?;
        Some((value, Place { offset: value.span().start, path: join(&self.place.path, key) }))
    }

    fn expect<T>(
        &self,
        value: Value<'a>,
        place: Place,
        what: &str,
        take: impl Fn(&'a DeValue<'a>) -> Option<T>,
    ) -> Option<At<T>> {
        match take(value.get_ref()) {
            Some(value) => Some(At { value, place }),
            None => {
                let found = kind(value.get_ref());
                self.problems.error(&place, format!("expected {what}, found {found}"));
                None
            }
        }
    }

    fn below(&self, table: Option<&'a DeTable<'a>>, offset: usize, path: String) -> Section<'a> {
        Section { table, place: Place { offset, path }, asked: Vec::new(), problems: self.problems }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// `path.key`, the key quoted when TOML would need it quoted.
fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
