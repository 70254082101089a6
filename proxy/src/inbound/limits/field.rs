//! Header fields that limits put into messages.

use http::{HeaderMap, HeaderName, HeaderValue};
use tradewind_api::limit::{HeaderEdit, HeaderEditHow};

/// A header field, as it is put into messages.
#[derive(Debug)]
pub(super) struct Field(HeaderName, HeaderValue, HeaderEditHow);

impl Field {
    /// None for what is no header field: it was checked where it was read.
    pub(super) fn of(edit: &HeaderEdit) -> Option<Self> {
        let name = HeaderName::try_from(edit.name.as_str()).ok()?;
        Some(Self(
            name,
            HeaderValue::try_from(edit.value.as_str()).ok()?,
            edit.how,
        ))
    }

    pub(super) fn put(&self, into: &mut HeaderMap) {
        let Self(name, value, how) = self;
        let is_there = into.contains_key(name);
        match how {
            HeaderEditHow::Append => drop(into.append(name.clone(), value.clone())),
            HeaderEditHow::IfAbsent if is_there => {}
            HeaderEditHow::IfPresent if !is_there => {}
            HeaderEditHow::IfAbsent | HeaderEditHow::Set | HeaderEditHow::IfPresent => {
                drop(into.insert(name.clone(), value.clone()));
            }
        }
    }
}
