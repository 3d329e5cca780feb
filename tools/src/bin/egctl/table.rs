// SPDX-License-Identifier: GPL-3.0-only
//! Rows of named columns, as aligned text for people or JSON for scripts: all at once ([`Table`]), or as they come
//! ([`Stream`]), where there may be a million.

use std::io::{self, Write};

use serde_json::{Map, Value};

type Columns = &'static [&'static str];

/// Rows by which the widths of a stream's columns are chosen. What comes later and is wider is not cut, it only stands out
/// of line.
const LOOK_AT: usize = 256;

pub(crate) struct Table {
    columns: Columns,
    rows: Vec<Vec<Value>>,
}

impl Table {
    pub(crate) fn new(columns: Columns) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// One value for each column.
    pub(crate) fn row(&mut self, values: Vec<Value>) {
        self.rows.push(values);
    }

    pub(crate) fn render(&self, json: bool) -> String {
        if json { self.json() } else { self.text() }
    }

    fn json(&self) -> String {
        format!("{}\n", Value::Array(self.rows.iter().map(|row| object(self.columns, row)).collect()))
    }

    fn text(&self) -> String {
        let layout = Layout::of(self.columns, &self.rows);
        let mut text = layout.heads(self.columns);
        self.rows.iter().for_each(|row| text += &layout.line(row));
        text
    }
}

/// Rows that are written as they come. The JSON is the same list as a table's, with a row on each line; it is whole once
/// the stream was finished.
pub(crate) struct Stream<W: Write> {
    columns: Columns,
    json: bool,
    out: W,
    /// Text that waits for the widths to be known.
    waiting: Vec<Vec<Value>>,
    layout: Option<Layout>,
    written: u64,
}

impl<W: Write> Stream<W> {
    pub(crate) fn new(columns: Columns, json: bool, out: W) -> Self {
        Self { columns, json, out, waiting: Vec::new(), layout: None, written: 0 }
    }

    pub(crate) fn row(&mut self, row: Vec<Value>) -> io::Result<()> {
        if self.json {
            let before = if self.written == 0 { "[" } else { ",\n" };
            self.written += 1;
            return write!(self.out, "{before}{}", object(self.columns, &row));
        }
        match &self.layout {
            Some(layout) => self.out.write_all(layout.line(&row).as_bytes()),
            None => {
                self.waiting.push(row);
                if self.waiting.len() < LOOK_AT { Ok(()) } else { self.flush() }
            }
        }
    }

    /// Shows what has come so far.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if !self.json && self.layout.is_none() {
            let layout = Layout::of(self.columns, &self.waiting);
            self.out.write_all(layout.heads(self.columns).as_bytes())?;
            for row in std::mem::take(&mut self.waiting) {
                self.out.write_all(layout.line(&row).as_bytes())?;
            }
            self.layout = Some(layout);
        }
        self.out.flush()
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        if self.json {
            let end: &[u8] = if self.written == 0 { b"[]\n" } else { b"]\n" };
            self.out.write_all(end)?;
        }
        self.flush()
    }
}

/// How wide columns are, and which hold numbers.
struct Layout(Vec<(usize, bool)>);

impl Layout {
    fn of(columns: Columns, rows: &[Vec<Value>]) -> Self {
        let one = |at: usize| {
            let cells = || rows.iter().filter_map(|row| row.get(at));
            let widths = cells().map(|cell| show(cell).chars().count());
            (widths.chain([columns[at].len()]).max().unwrap_or(0), cells().any(Value::is_number))
        };
        Self((0..columns.len()).map(one).collect())
    }

    fn heads(&self, columns: Columns) -> String {
        self.cells(columns.iter().map(|column| column.to_uppercase()))
    }

    fn line(&self, row: &[Value]) -> String {
        self.cells(row.iter().map(show))
    }

    fn cells(&self, cells: impl Iterator<Item = String>) -> String {
        let mut line = String::new();
        for (cell, &(width, number)) in cells.zip(&self.0) {
            // Numbers to the right, so that they can be compared by eye.
            line += &if number { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
        }
        format!("{}\n", line.trim_end())
    }
}

fn object(columns: Columns, row: &[Value]) -> Value {
    let pairs = columns.iter().zip(row).map(|(column, value)| (column.replace(' ', "_"), value.clone()));
    Value::Object(pairs.collect::<Map<_, _>>())
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_aligned_and_numbers_are_to_the_right() {
        let mut table = Table::new(&["name", "packets"]);
        table.row(vec![json!("a"), json!(5)]);
        table.row(vec![json!("long name"), json!(12_345_678)]);
        assert_eq!(table.render(false), "NAME        PACKETS\na                 5\nlong name  12345678\n");
    }

    #[test]
    fn json_is_a_list_of_objects() {
        let mut table = Table::new(&["ring share"]);
        table.row(vec![json!(0.5)]);
        assert_eq!(table.render(true), "[{\"ring_share\":0.5}]\n");
    }

    fn streamed(json: bool, rows: usize) -> String {
        let mut out = Vec::new();
        let mut stream = Stream::new(&["number", "name"], json, &mut out);
        (0..rows).for_each(|number| stream.row(vec![json!(number), json!("x")]).unwrap());
        stream.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_stream_reads_as_a_table_does() {
        for rows in [0, 1, 2, LOOK_AT, LOOK_AT + 1, 3 * LOOK_AT] {
            let mut table = Table::new(&["number", "name"]);
            (0..rows).for_each(|number| table.row(vec![json!(number), json!("x")]));
            let whole: Value = serde_json::from_str(&table.render(true)).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&streamed(true, rows)).unwrap(), whole, "{rows}");
            assert_eq!(streamed(false, rows), table.render(false), "{rows}");
        }
    }
}
