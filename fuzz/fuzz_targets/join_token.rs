//! A token that somebody pasted: never a panic, and what is read prints to a token that reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tradewind_ca::{JoinToken, WorkloadToken};

fuzz_target!(|text: &str| {
    if let Ok(token) = text.parse::<JoinToken>() {
        let again: JoinToken = token.to_string().parse().expect("reads its own text");
        assert!(again.matches(&token.hash_secret()));
        assert_eq!(again.id, token.id);
    }
    // Behind the prefix, where random bytes seldom get by themselves.
    drop(format!("tw1.{text}").parse::<JoinToken>());
    drop(format!("tww1.{text}").parse::<WorkloadToken>());
});
