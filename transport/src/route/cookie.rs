//! Cookies of a request. Pure.

use http::{HeaderMap, header::COOKIE};

/// The values of a request's cookies of one name, in the order in which they came: clients send several where they have some for several
/// paths. Quotes around a value are not part of it. What is no text is left out.
pub fn cookies<'a>(fields: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let fields = fields.get_all(COOKIE).iter();
    let pairs = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .filter(move |(n, _)| *n == name)
        .map(|(_, value)| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn all_of_one_name_are_found_in_all_fields_and_in_order() {
        let mut fields = HeaderMap::new();
        for value in [
            "a=1; cart=\"ann\"; cartoon=x",
            "cart=bob;cart=; cart",
            "A=2",
        ] {
            fields.append(COOKIE, HeaderValue::from_static(value));
        }
        fields.append(COOKIE, HeaderValue::from_bytes(b"cart=\xff").unwrap());
        let found = |name| cookies(&fields, name).collect::<Vec<_>>();
        assert_eq!(found("cart"), ["ann", "bob", ""]);
        assert_eq!(found("a"), ["1"]);
        assert!(found("b").is_empty());
    }
}
