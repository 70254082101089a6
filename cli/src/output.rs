//! `-o table|json|name`: one listing, three ways to show it.
//!
//! JSON is complete and versioned by its schema; `name` prints what other commands take as an argument.

use serde_json::{Value, json};

use crate::{printer::Printer, table::Table};

/// How a listing is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// One JSON document with a schema.
    Json,
    /// One name a line.
    Name,
}

/// The flag.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Output {
    /// How to show it
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        default_value = "table",
        env = "TRADEWIND_OUTPUT"
    )]
    pub format: Format,
}

/// One listing, ready to be shown.
#[derive(Debug)]
pub struct Listing {
    /// `tradewind.<thing>/v1`.
    pub schema: &'static str,
    /// The fields of the JSON document.
    pub json: Value,
    /// The table.
    pub table: Table,
    /// The names.
    pub names: Vec<String>,
    /// What is said on stderr when there is nothing to show.
    pub empty: &'static str,
}

impl Listing {
    /// Shows it.
    pub fn show(self, printer: Printer, output: Output) {
        match output.format {
            Format::Json => printer.json(&document(self.schema, self.json)),
            Format::Name => self.names.iter().for_each(|name| printer.data(name)),
            Format::Table if self.table.is_empty() => printer.say(self.empty),
            Format::Table => printer.data(self.table.render()),
        }
    }
}

/// A JSON document with its schema.
pub fn document(schema: &str, fields: Value) -> Value {
    let mut document = json!({ "schema": schema });
    if let (Value::Object(into), Value::Object(fields)) = (&mut document, fields) {
        into.extend(fields);
    }
    document
}
