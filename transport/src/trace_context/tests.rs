//! The standard's examples, what it calls invalid, and what must hold of any bytes and any numbers.

use proptest::prelude::*;

use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn header(value: &str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(TRACEPARENT, value.parse().unwrap());
    fields
}

/// Numbers that are not asked for more often than there are.
fn numbers<const N: usize>(numbers: [u64; N]) -> impl FnMut() -> u64 {
    let mut numbers = numbers.into_iter();
    move || numbers.next().expect("no more random numbers are taken")
}

fn records(ratio: f64) -> Rule {
    Rule {
        begin: Ratio::new(ratio),
        records: true,
    }
}

#[test]
fn the_standards_own_examples_are_read() {
    let parse = |text: &str| Context::parse(text.as_bytes());
    let sampled = parse(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
    assert_eq!(sampled.trace.to_string(), TRACE);
    assert_eq!(sampled.parent.to_string(), SPAN);
    assert!(sampled.is_sampled());
    assert!(
        !parse(&format!("00-{TRACE}-{SPAN}-00"))
            .unwrap()
            .is_sampled()
    );
    // A later version, with and without more behind.
    assert_eq!(parse(&format!("cc-{TRACE}-{SPAN}-01")), Some(sampled));
    assert_eq!(parse(&format!("cc-{TRACE}-{SPAN}-01-what")), Some(sampled));
    // Flags of the future are not passed on.
    let future = parse(&format!("00-{TRACE}-{SPAN}-fd")).unwrap();
    assert_eq!(future.value(), format!("00-{TRACE}-{SPAN}-01"));
    let random = parse(&format!("00-{TRACE}-{SPAN}-03")).unwrap();
    assert_eq!(random.value(), format!("00-{TRACE}-{SPAN}-03"));
}

#[test]
fn what_the_standard_calls_invalid_is() {
    let zeros = "0".repeat(32);
    for bad in [
        String::new(),
        format!("00-{TRACE}-{SPAN}"),
        format!("00-{TRACE}-{SPAN}-01-"),
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("00-{TRACE}-{SPAN}-1"),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("cc-{TRACE}-{SPAN}-01.what"),
        format!("0-{TRACE}-{SPAN}-011"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
        format!("00-{TRACE}-{SPAN}-0A"),
        format!("00-{zeros}-{SPAN}-01"),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-{TRACE}_{SPAN}-01"),
        format!("00-{TRACE}{SPAN}-01--"),
        format!(" 00-{TRACE}-{SPAN}-01"),
    ] {
        assert_eq!(Context::parse(bad.as_bytes()), None, "{bad:?}");
    }
    let mut twice = header(&format!("00-{TRACE}-{SPAN}-01"));
    twice.append(TRACEPARENT, twice[TRACEPARENT].clone());
    assert_eq!(Context::of(&twice), None);
}

#[test]
fn a_foreign_context_that_is_not_recorded_passes_untouched() {
    // Also one that we would write in another way.
    for (value, rule) in [
        (format!("00-{TRACE}-{SPAN}-00"), records(1.0)),
        (format!("cc-{TRACE}-{SPAN}-00-more"), records(1.0)),
        (
            format!("00-{TRACE}-{SPAN}-01"),
            Rule {
                begin: Ratio::new(1.0),
                records: false,
            },
        ),
        (format!("00-{TRACE}-{SPAN}-01"), Rule::OFF),
    ] {
        let mut fields = header(&value);
        fields.insert(TRACESTATE, "a=1, b=2".parse().unwrap());
        let before = fields.clone();
        let followed = follow(&mut fields, rule, numbers([])).unwrap();
        assert_eq!(fields, before, "{value}");
        assert!(!followed.recorded);
        assert_eq!(followed.context.trace.to_string(), TRACE);
    }
}

#[test]
fn a_sampled_one_goes_on_below_the_own_span() {
    let mut fields = header(&format!("00-{TRACE}-{SPAN}-01"));
    fields.insert(TRACESTATE, "congo=t61rcWkgMzE".parse().unwrap());
    let followed = follow(&mut fields, records(0.0), numbers([7])).unwrap();
    assert!(followed.recorded);
    assert_eq!(followed.above.unwrap().to_string(), SPAN);
    assert_eq!(
        fields[TRACEPARENT],
        format!("00-{TRACE}-0000000000000007-01")
    );
    assert_eq!(fields[TRACESTATE], "congo=t61rcWkgMzE");
}

#[test]
fn without_a_valid_one_a_trace_begins_and_nothing_is_left_of_what_was_there() {
    for (ratio, flags) in [(0.0, "00"), (1.0, "01")] {
        for came in [None, Some("nonsense")] {
            let mut fields = came.map(header).unwrap_or_default();
            fields.insert(TRACESTATE, "a=1".parse().unwrap());
            let followed = follow(&mut fields, records(ratio), numbers([1, 2, 3])).unwrap();
            let expected = format!("00-00000000000000010000000000000002-0000000000000003-{flags}");
            assert_eq!(fields[TRACEPARENT], expected);
            assert!(!fields.contains_key(TRACESTATE));
            assert_eq!(followed.recorded, ratio > 0.0);
            assert_eq!(followed.above, None);
        }
    }
    let mut fields = header("nonsense");
    assert_eq!(follow(&mut fields, Rule::OFF, numbers([])), None);
    assert_eq!(fields, header("nonsense"), "off is off");
}

#[test]
fn random_numbers_that_are_zero_still_make_valid_ids() {
    let mut fields = HeaderMap::new();
    follow(&mut fields, records(1.0), numbers([0, 0, 0])).unwrap();
    assert!(Context::of(&fields).is_some());
}

#[test]
fn a_bad_state_is_dropped_and_the_trace_goes_on() {
    let long = format!("k={}", "v".repeat(257));
    let many = (0..33)
        .map(|n| format!("k{n}=v"))
        .collect::<Vec<_>>()
        .join(",");
    let most = (0..32)
        .map(|n| format!("k{n}=v"))
        .collect::<Vec<_>>()
        .join(",");
    for (state, kept) in [
        ("a=1,,b=2 ,", true),
        ("fw529a3039@dt=FfAAAA,0tenant@sys=x", true),
        ("a= b", true),
        (&*most, true),
        (&*many, false),
        (&*long, false),
        ("a", false),
        ("a=", false),
        ("=1", false),
        ("A=1", false),
        ("a=1=2", false),
        ("a b=1", false),
    ] {
        let mut fields = header(&format!("00-{TRACE}-{SPAN}-00"));
        fields.insert(TRACESTATE, state.parse().unwrap());
        follow(&mut fields, records(1.0), numbers([])).unwrap();
        assert_eq!(fields.contains_key(TRACESTATE), kept, "{state}");
        assert_eq!(fields[TRACEPARENT], format!("00-{TRACE}-{SPAN}-00"));
    }
    // Several fields are one list.
    let mut fields = header(&format!("00-{TRACE}-{SPAN}-00"));
    for n in 0..33 {
        fields.append(TRACESTATE, format!("k{n}=v").parse().unwrap());
    }
    assert!(!state_is_valid(&fields));
}

#[test]
fn ratios_are_numbers_from_nought_to_one() {
    for (text, value) in [("0", 0.0), ("1", 1.0), (" 0.25 ", 0.25), ("1e-3", 0.001)] {
        assert_eq!(text.parse::<Ratio>().unwrap().get(), value);
    }
    for bad in ["", "-0.1", "1.01", "NaN", "inf", "1%", "all"] {
        let error = bad.parse::<Ratio>().unwrap_err().to_string();
        assert!(error.contains("from 0 (none) to 1 (all)"), "{error}");
    }
    let shown = Ratio::new(0.25).unwrap().to_string();
    assert_eq!(shown.parse::<Ratio>().unwrap().get(), 0.25);
}

fn begun(numbers: [u64; 2], ratio: f64) -> bool {
    let mut all = [numbers[0], numbers[1], 1].into_iter();
    let ratio = Ratio::new(ratio).unwrap();
    begin(ratio, || all.next().unwrap()).is_sampled()
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Some(context) = Context::parse(&bytes) {
            prop_assert_eq!(Context::parse(context.value().as_bytes()), Some(context));
        }
    }

    #[test]
    fn nearly_valid_text_is_read_or_refused(
        text in "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}",
        at in 0usize..55,
        by in any::<u8>(),
    ) {
        let mut bytes = text.into_bytes();
        bytes[at] = by;
        if let Some(context) = Context::parse(&bytes) {
            let again = Context::parse(context.value().as_bytes());
            prop_assert_eq!(again, Some(context));
            let written = context.value();
            prop_assert_eq!(&written.as_bytes()[2..53], &bytes[2..53]);
        }
    }

    #[test]
    fn what_was_written_is_read_again(a in any::<u64>(), b in any::<u64>(), c in any::<u64>(), ratio in 0.0..=1.0f64) {
        let mut fields = HeaderMap::new();
        let mut all = [a, b, c].into_iter();
        let followed = follow(&mut fields, records(ratio), || all.next().unwrap()).unwrap();
        prop_assert_eq!(Context::of(&fields), Some(followed.context));
        prop_assert_eq!(followed.recorded, followed.context.is_sampled());
        // The next proxy sees the same trace, below this one's span, and records it exactly if this one does.
        let next = follow(&mut fields, records(1.0 - ratio), || 9).unwrap();
        prop_assert_eq!(next.context.trace, followed.context.trace);
        prop_assert_eq!(next.recorded, followed.recorded);
        prop_assert_eq!(next.above, followed.recorded.then_some(followed.context.parent));
    }

    #[test]
    fn a_larger_ratio_samples_all_that_a_smaller_one_does(a in any::<u64>(), b in any::<u64>(), x in 0.0..=1.0f64, y in 0.0..=1.0f64) {
        let (less, more) = (x.min(y), x.max(y));
        prop_assert!(!begun([a, b], less) || begun([a, b], more));
        prop_assert!(!begun([a, b], 0.0) && begun([a, b], 1.0));
    }

    #[test]
    fn any_state_is_judged(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let mut fields = header(&format!("00-{TRACE}-{SPAN}-00"));
            fields.insert(TRACESTATE, value);
            let valid = state_is_valid(&fields);
            follow(&mut fields, records(1.0), || 1);
            prop_assert_eq!(fields.contains_key(TRACESTATE), valid);
        }
    }
}
