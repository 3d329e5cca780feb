// SPDX-License-Identifier: GPL-3.0-only
//! Rows of named columns, as aligned text for people or JSON for scripts.

use serde_json::{Map, Value};

pub(crate) struct Table {
    columns: &'static [&'static str],
    rows: Vec<Vec<Value>>,
}

impl Table {
    pub(crate) fn new(columns: &'static [&'static str]) -> Self {
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
        let object = |row: &Vec<Value>| {
            let pairs = self.columns.iter().zip(row).map(|(column, value)| (column.replace(' ', "_"), value.clone()));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        format!("{}\n", Value::Array(self.rows.iter().map(object).collect()))
    }

    fn text(&self) -> String {
        let shown: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(show).collect()).collect();
        let width = |column: usize| {
            let cells = shown.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([self.columns[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        let heads: Vec<String> = self.columns.iter().map(|column| column.to_uppercase()).collect();
        let numbers: Vec<bool> = (0..self.columns.len())
            .map(|at| self.rows.iter().any(|row| row.get(at).is_some_and(Value::is_number)))
            .collect();
        for row in std::iter::once(&heads).chain(&shown) {
            let mut line = String::new();
            for ((cell, width), number) in row.iter().zip(&widths).zip(&numbers) {
                // Numbers to the right, so that they can be compared by eye.
                line += &if *number { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
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
}
