//! Regular expressions that people write into routes, with a bound on what one may cost. Whoever reads a route and whoever
//! matches by it compile it here, so that both mean the same.

use regex::{Regex, RegexBuilder};

/// Most bytes that one compiled expression may take. What people write takes a few; a counted repetition of a class of all
/// letters takes megabytes, in every proxy.
const MAX_EXPRESSION: usize = 256 << 10;

/// A regular expression, RE2's syntax: its time is linear in the text, whatever it is.
#[derive(Clone, Debug)]
pub struct Expression(Regex);

impl Expression {
    /// One that must match a whole text. The error says what is wrong with it.
    pub fn whole(text: &str, ignores_case: bool) -> Result<Self, String> {
        // Told apart first, so that no bracket of its own can escape the group.
        Self::compile(text, false)?;
        Self::compile(&format!("^(?:{text})$"), ignores_case)
    }

    /// One that is looked for anywhere in a text.
    pub fn anywhere(text: &str) -> Result<Self, String> {
        Self::compile(text, false)
    }

    fn compile(text: &str, ignores_case: bool) -> Result<Self, String> {
        let mut builder = RegexBuilder::new(text);
        let built = builder
            .case_insensitive(ignores_case)
            .size_limit(MAX_EXPRESSION)
            .dfa_size_limit(MAX_EXPRESSION)
            .build();
        match built {
            Ok(regex) => Ok(Self(regex)),
            Err(regex::Error::CompiledTooBig(_)) => Err(format!(
                "it takes more than {} KiB when it is compiled",
                MAX_EXPRESSION >> 10
            )),
            // The last line says what; those before draw a picture of where.
            Err(error) => {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or("it is no expression");
                Err(last.trim_start_matches("error: ").to_owned())
            }
        }
    }

    /// Whether it matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The text with everything that it finds replaced; `\1` in `with` is the first group, `\0` all that was found.
    pub fn replace(&self, text: &str, with: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut from = 0;
        for found in self.0.captures_iter(text) {
            let Some(all) = found.get(0) else { continue };
            out.push_str(text.get(from..all.start()).unwrap_or_default());
            let mut chars = with.chars();
            while let Some(c) = chars.next() {
                match (c, chars.as_str().chars().next()) {
                    ('\\', Some(digit @ '0'..='9')) => {
                        let group = digit as usize - '0' as usize;
                        out.push_str(found.get(group).map_or("", |g| g.as_str()));
                        chars.next();
                    }
                    ('\\', Some('\\')) => {
                        out.push('\\');
                        chars.next();
                    }
                    _ => out.push(c),
                }
            }
            from = all.end();
        }
        out.push_str(text.get(from..).unwrap_or_default());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_bounded_and_stay_within_their_group() {
        assert!(
            Expression::whole("a)|(b", false).is_err(),
            "a bracket of its own"
        );
        assert!(
            Expression::whole(r"\pL{500}", false)
                .unwrap_err()
                .contains("KiB")
        );
        let all = Expression::whole("a|b", false).unwrap();
        assert!(all.is_match("b") && !all.is_match("ab"));
        let error = Expression::whole("(a", false).unwrap_err();
        assert_eq!(error, "unclosed group");
        let e = Expression::anywhere("/(v[0-9])/([a-z]+)").unwrap();
        assert_eq!(e.replace("/v1/cart/x", r"/\2/\1\\\9"), r"/cart/v1\/x");
        assert_eq!(e.replace("/none", "x"), "/none");
    }
}
