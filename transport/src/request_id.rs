//! `x-request-id`: what a request is called in everybody's logs. Made by the first proxy that meets a request without one, and
//! passed on unchanged ever after, also between clusters. Pure: whoever calls brings the random numbers.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives a request an id unless it has one. `random` is asked twice, and only then.
pub fn ensure(fields: &mut HeaderMap, random: impl FnMut() -> u64) {
    if !fields.contains_key(X_REQUEST_ID) {
        fields.insert(X_REQUEST_ID, make(random));
    }
}

/// A version 4 UUID (RFC 9562 section 5.4).
fn make(mut random: impl FnMut() -> u64) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bits = (u128::from(random()) << 64) | u128::from(random());
    let bits = (bits & !(0xf << 76)) | (0x4 << 76);
    let bits = (bits & !(0x3 << 62)) | (0x2 << 62);
    let mut text = [b'-'; 36];
    let places = text.iter_mut().enumerate();
    let digits = places.filter(|(i, _)| !matches!(i, 8 | 13 | 18 | 23));
    for ((_, place), shift) in digits.zip((0..32u32).rev()) {
        let digit = (bits >> (shift * 4)) & 0xf;
        *place = usize::try_from(digit)
            .ok()
            .and_then(|d| HEX.get(d))
            .copied()
            .unwrap_or(b'0');
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_in_the_form_of_a_uuid() {
        let id = |numbers: [u64; 2]| {
            let (mut fields, mut numbers) = (HeaderMap::new(), numbers.into_iter());
            ensure(&mut fields, || numbers.next().unwrap());
            fields[X_REQUEST_ID].to_str().unwrap().to_owned()
        };
        assert_eq!(id([0, 0]), "00000000-0000-4000-8000-000000000000");
        assert_eq!(
            id([u64::MAX, u64::MAX]),
            "ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
        assert_eq!(
            id([0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef]),
            "01234567-89ab-4def-8123-456789abcdef"
        );
    }

    #[test]
    fn one_that_is_there_stays_whatever_it_is() {
        for value in ["7", "", "not a uuid"] {
            let mut fields = HeaderMap::new();
            fields.insert(X_REQUEST_ID, HeaderValue::from_static(value));
            ensure(&mut fields, || panic!("nothing is to be made"));
            assert_eq!(fields[X_REQUEST_ID], value);
            assert_eq!(fields.len(), 1);
        }
    }
}
