//! What is wrong, or without effect, in what people wrote. Codes are stable: a tool may rely on them.

use std::{cmp::Ordering, fmt};

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It does not do what it says.
    Error,
    /// It may not do what was meant.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// The word that tables show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// What is found, as a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// The object is not what its kind is.
    Malformed,
    /// A field that its kind does not have.
    UnknownField,
    /// A field of its kind that is not acted on.
    UnsupportedField,
    /// A value that is none for its field.
    InvalidValue,
    /// A regular expression that is none, or too large.
    BrokenExpression,
    /// A backend that nobody knows.
    BackendNotFound,
    /// A reference into another namespace that nobody there allows.
    NotGranted,
    /// A parent or host that nobody knows.
    ParentNotFound,
    /// A subset that no rule defines.
    SubsetNotFound,
    /// A VirtualService to delegate to that is none, or not for whoever names it.
    DelegateNotFound,
    /// Weights that sum to nothing.
    NoWeight,
    /// A rule behind one that takes all of its requests.
    Shadowed,
    /// An object that another one takes precedence over.
    Superseded,
    /// A retry that cannot happen.
    IdleRetry,
    /// A permission for browsers that no question of theirs reaches.
    IdleCors,
    /// A subset that no endpoint is in.
    EmptySubset,
    /// A way out of a region, or into one, that nobody can take.
    IdleFailover,
    /// A setting that cannot act.
    IdleSetting,
    /// Rules to delegate to that nobody delegates to.
    IdleDelegate,
    /// A rule that no request of the rule which delegates to it meets.
    Contradiction,
    /// A selector that no workload meets.
    EmptySelector,
    /// A rule's sessions under the name of another one's.
    SharedSession,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Malformed,
        Self::UnknownField,
        Self::UnsupportedField,
        Self::InvalidValue,
        Self::BrokenExpression,
        Self::BackendNotFound,
        Self::NotGranted,
        Self::ParentNotFound,
        Self::SubsetNotFound,
        Self::DelegateNotFound,
        Self::NoWeight,
        Self::Shadowed,
        Self::Superseded,
        Self::IdleRetry,
        Self::IdleCors,
        Self::EmptySubset,
        Self::IdleFailover,
        Self::IdleSetting,
        Self::IdleDelegate,
        Self::Contradiction,
        Self::EmptySelector,
        Self::SharedSession,
    ];

    /// The code as it is printed; it never changes its meaning.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "TW0201",
            Self::UnknownField => "TW0202",
            Self::UnsupportedField => "TW0203",
            Self::InvalidValue => "TW0204",
            Self::BrokenExpression => "TW0205",
            Self::BackendNotFound => "TW0211",
            Self::NotGranted => "TW0212",
            Self::ParentNotFound => "TW0213",
            Self::SubsetNotFound => "TW0214",
            Self::DelegateNotFound => "TW0215",
            Self::NoWeight => "TW0221",
            Self::Shadowed => "TW0222",
            Self::Superseded => "TW0223",
            Self::IdleRetry => "TW0224",
            Self::IdleCors => "TW0225",
            Self::EmptySubset => "TW0226",
            Self::IdleFailover => "TW0227",
            Self::IdleSetting => "TW0228",
            Self::IdleDelegate => "TW0229",
            Self::Contradiction => "TW0230",
            Self::EmptySelector => "TW0231",
            Self::SharedSession => "TW0232",
        }
    }

    /// How bad it is.
    pub const fn severity(self) -> Severity {
        match self {
            Self::Malformed
            | Self::InvalidValue
            | Self::BrokenExpression
            | Self::BackendNotFound
            | Self::NotGranted
            | Self::SubsetNotFound
            | Self::DelegateNotFound
            | Self::NoWeight => Severity::Error,
            Self::UnknownField
            | Self::UnsupportedField
            | Self::ParentNotFound
            | Self::Shadowed
            | Self::Superseded
            | Self::IdleRetry
            | Self::IdleCors
            | Self::EmptySubset
            | Self::IdleFailover
            | Self::IdleSetting
            | Self::IdleDelegate
            | Self::Contradiction
            | Self::EmptySelector
            | Self::SharedSession => Severity::Warning,
        }
    }

    /// What to do about it.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Malformed => "compare it with the kind's reference",
            Self::UnknownField => "look for a typing error, or a field of a newer version",
            Self::UnsupportedField => "remove it, or do not count on it",
            Self::InvalidValue => "give it a value as the text says",
            Self::BrokenExpression => {
                "expressions are RE2's: no look-around and no back references"
            }
            Self::BackendNotFound => {
                "define the service, or import it; until then its share is answered with 500"
            }
            Self::NotGranted => "add a ReferenceGrant in the namespace of what is referred to",
            Self::ParentNotFound => {
                "define the service, or correct the name; until then the rules hold for nothing"
            }
            Self::SubsetNotFound => {
                "define it in a DestinationRule for the host; until then its share is answered with 503"
            }
            Self::DelegateNotFound => {
                "define a VirtualService of that name without hosts, for the namespace of the one that names it; until then the rule is left out"
            }
            Self::NoWeight => {
                "give at least one a weight; until then a route's requests are answered with 500, and a locality's callers go to the nearest"
            }
            Self::Shadowed => "move it before the other rule, or remove it",
            Self::Superseded => "keep one of the two objects for this service and these callers",
            Self::IdleRetry => "give it attempts and a time to try in, or remove it",
            Self::IdleCors => {
                "let the rule take OPTIONS too: browsers ask by it before anything but a simple request"
            }
            Self::EmptySubset => {
                "give endpoints these labels, or correct them; until then its share is answered with 503"
            }
            Self::IdleFailover => "name regions that there are, and two different ones",
            Self::IdleSetting => "give it what it needs to act, or remove it",
            Self::IdleDelegate => {
                "name it in a rule's delegate in a VirtualService with hosts, or give it hosts"
            }
            Self::Contradiction => {
                "ask for no less than the rule that delegates to it; until then it is left out there"
            }
            Self::EmptySelector => {
                "give workloads these labels, or correct them; those in the root namespace are for all namespaces, others for their own"
            }
            Self::SharedSession => {
                "give each rule's sessions a name of their own; until then a client that calls by both is kept with no endpoint"
            }
        }
    }
}

/// One finding. They are ordered by file and line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `file:line` of the field, where that is known, else of the object.
    pub place: String,
    /// What is found.
    pub code: Code,
    /// `Kind namespace/name`.
    pub object: String,
    /// The field's path, such as `spec.rules[0].matches[1].path`; empty for the object as a whole.
    pub path: String,
    /// What is wrong there, as a sentence without an end.
    pub text: String,
}

impl Finding {
    fn key(&self) -> (&str, u64, Code, [&str; 4]) {
        let (file, line) = self.place.rsplit_once(':').unwrap_or((&self.place, ""));
        let rest = [&self.object, &self.path, &self.text, &self.place].map(String::as_str);
        (file, line.parse().unwrap_or(0), self.code, rest)
    }
}

impl Ord for Finding {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Finding {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            code,
            object,
            path,
            text,
        } = self;
        let (word, code) = (code.severity().as_str(), code.as_str());
        let dot = if path.is_empty() { "" } else { ": " };
        write!(f, "{place}: {code} {word}: {object}: {path}{dot}{text}")
    }
}

impl Serialize for Finding {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut out = s.serialize_struct("Finding", 7)?;
        out.serialize_field("place", &self.place)?;
        out.serialize_field("code", self.code.as_str())?;
        out.serialize_field("severity", &self.code.severity())?;
        out.serialize_field("object", &self.object)?;
        out.serialize_field("path", &self.path)?;
        out.serialize_field("text", &self.text)?;
        out.serialize_field("hint", self.code.hint())?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_distinct_and_say_all() {
        let codes: BTreeSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(codes.len(), Code::ALL.len());
        let finding = Finding {
            place: "a.yaml:3".into(),
            code: Code::NoWeight,
            object: "HTTPRoute shop/cart".into(),
            path: "spec.rules[0].backendRefs".into(),
            text: "the weights sum to nothing".into(),
        };
        assert_eq!(
            finding.to_string(),
            "a.yaml:3: TW0221 error: HTTPRoute shop/cart: spec.rules[0].backendRefs: the weights sum to nothing"
        );
        let json = serde_json::to_value(&finding).unwrap();
        assert_eq!(
            (&json["code"], &json["severity"]),
            (&"TW0221".into(), &"error".into())
        );
        assert!(json["hint"].as_str().unwrap().contains("500"));
    }

    #[test]
    fn findings_stand_in_the_order_of_lines_and_not_of_their_digits() {
        let at = |place: &str| Finding {
            place: place.to_owned(),
            code: Code::NoWeight,
            object: String::new(),
            path: String::new(),
            text: String::new(),
        };
        let order = ["a.yaml:9", "a.yaml:10", "a.yaml:100", "b.yaml:2", "c"];
        let mut findings: Vec<_> = order.iter().rev().map(|p| at(p)).collect();
        findings.sort();
        let places: Vec<_> = findings.iter().map(|f| f.place.as_str()).collect();
        assert_eq!(places, order);
    }
}
