//! As much of Helm's template language as the chart uses, and not more: values, four functions, and conditions. What it does not
//! know is an error, so that the chart cannot come to say something else here than with Helm.

use serde_json::Value;

/// Deepest nesting of conditions.
const MAX_DEPTH: usize = 8;

/// Why a template cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A value that has no default was not given: the chart's own words.
    #[error("{0}")]
    Required(String),
    /// The chart says something that is not understood: a fault of the chart, or of this file.
    #[error("{file}: {what}: {text:?}")]
    Unknown {
        /// The chart's file.
        file: String,
        /// What is wrong.
        what: &'static str,
        /// Where.
        text: String,
    },
}

#[derive(Debug)]
enum Token<'a> {
    Text(&'a str),
    Action(&'a str),
}

/// What stands in a condition's branch is shown.
#[derive(Clone, Copy, Debug)]
struct Branch {
    shown: bool,
    outer: bool,
}

/// Renders `text`, the chart's `file`, for `world` (`Values`, `Release`, `Chart`).
pub fn render(file: &str, text: &str, world: &Value) -> Result<String, TemplateError> {
    let renderer = Renderer { file, world };
    let mut out = String::new();
    let mut open: Vec<Branch> = Vec::new();
    for token in renderer.tokens(text)? {
        let shown = open.last().is_none_or(|branch| branch.shown);
        match token {
            Token::Text(text) => {
                if shown {
                    out.push_str(text);
                }
            }
            Token::Action("end") => {
                open.pop()
                    .ok_or_else(|| renderer.unknown("an end too many", "end"))?;
            }
            Token::Action("else") => {
                let branch = open
                    .last_mut()
                    .ok_or_else(|| renderer.unknown("an else without an if", "else"))?;
                branch.shown = branch.outer && !branch.shown;
            }
            Token::Action(action) => {
                if let Some(condition) = action.strip_prefix("if ") {
                    if open.len() >= MAX_DEPTH {
                        return Err(renderer.unknown("nested too deeply", action));
                    }
                    let holds = shown && is_true(renderer.value(condition.trim())?);
                    open.push(Branch {
                        shown: holds,
                        outer: shown,
                    });
                } else if shown {
                    out.push_str(&renderer.pipeline(action)?);
                }
            }
        }
    }
    match open.is_empty() {
        true => Ok(out),
        false => Err(renderer.unknown("an if without its end", "if")),
    }
}

struct Renderer<'a> {
    file: &'a str,
    world: &'a Value,
}

impl Renderer<'_> {
    fn unknown(&self, what: &'static str, text: &str) -> TemplateError {
        TemplateError::Unknown {
            file: self.file.to_owned(),
            what,
            text: text.to_owned(),
        }
    }

    /// Text and actions by turns; `{{-` takes the white space before it away, `-}}` that after it.
    fn tokens<'t>(&self, text: &'t str) -> Result<Vec<Token<'t>>, TemplateError> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after
                .split_once("}}")
                .ok_or_else(|| self.unknown("an action without its end", before))?;
            let (before, action) = match action.strip_prefix('-') {
                Some(action) => (before.trim_end(), action),
                None => (before, action),
            };
            let (action, after) = match action.strip_suffix('-') {
                Some(action) => (action, after.trim_start()),
                None => (action, after),
            };
            tokens.push(Token::Text(before));
            tokens.push(Token::Action(action.trim()));
            rest = after;
        }
        tokens.push(Token::Text(rest));
        Ok(tokens)
    }

    /// A value and the functions that it goes through.
    fn pipeline(&self, action: &str) -> Result<String, TemplateError> {
        let mut steps = split_outside_quotes(action).into_iter();
        let first = steps.next().unwrap_or_default();
        let mut value = self.value(&first)?.clone();
        for step in steps {
            let (function, argument) = match step.split_once(' ') {
                Some((function, argument)) => (function, argument.trim()),
                None => (step.as_str(), ""),
            };
            value = match function {
                "quote" => Value::String(Value::String(plain(&value)).to_string()),
                "toJson" => Value::String(value.to_string()),
                "default" if is_true(&value) => value,
                "default" => self.value(argument)?.clone(),
                "required" if !is_missing(&value) => value,
                "required" => {
                    let message = argument.trim_matches('"').to_owned();
                    return Err(TemplateError::Required(message));
                }
                _ => return Err(self.unknown("a function that is not known", &step)),
            };
        }
        Ok(plain(&value))
    }

    /// `.Values.a.b`. One that is not there is null, as with Helm; a path that begins with another word is an error.
    fn value(&self, path: &str) -> Result<&Value, TemplateError> {
        let steps = path
            .strip_prefix('.')
            .ok_or_else(|| self.unknown("no value", path))?;
        let known = steps.split('.').next().and_then(|top| self.world.get(top));
        let is_path = |c: char| c.is_ascii_alphanumeric() || c == '.';
        if known.is_none() || !steps.chars().all(is_path) {
            return Err(self.unknown("no value", path));
        }
        let found = steps
            .split('.')
            .try_fold(self.world, |value, step| value.get(step));
        Ok(found.unwrap_or(&Value::Null))
    }
}

fn split_outside_quotes(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        quoted ^= c == '"';
        match parts.last_mut() {
            Some(_) if c == '|' && !quoted => parts.push(String::new()),
            Some(part) => part.push(c),
            None => {}
        }
    }
    parts.iter().map(|part| part.trim().to_owned()).collect()
}

/// What Helm takes for true: not null, no, zero or empty.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// What Helm's `required` refuses; no and zero are values.
fn is_missing(value: &Value) -> bool {
    value.is_null() || value == ""
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(text: &str) -> Result<String, TemplateError> {
        let world = json!({
            "Values": { "a": "x", "n": 2, "no": false, "empty": "", "map": { "k": "v" } },
            "Release": { "Namespace": "here" },
        });
        render("t.yaml", text, &world)
    }

    #[test]
    fn values_functions_and_conditions() {
        assert_eq!(of("{{ .Values.a }}-{{ .Values.n }}").unwrap(), "x-2");
        assert_eq!(of("{{ .Values.a | quote }}").unwrap(), "\"x\"");
        assert_eq!(of("{{ .Values.map | toJson }}").unwrap(), r#"{"k":"v"}"#);
        assert_eq!(
            of("{{ .Values.empty | default .Release.Namespace }}").unwrap(),
            "here"
        );
        let text = "a\n{{- if .Values.no }}\nb\n{{- else }}\nc\n{{- end }}\nd\n";
        assert_eq!(of(text).unwrap(), "a\nc\nd\n");
        let nested =
            "{{ if .Values.no }}{{ if .Values.a }}1{{ else }}2{{ end }}{{ else }}3{{ end }}";
        assert_eq!(of(nested).unwrap(), "3");
    }

    #[test]
    fn what_is_missing_or_not_known_is_said() {
        let required = of(r#"{{ .Values.empty | required "set it | now" }}"#);
        assert_eq!(
            required,
            Err(TemplateError::Required("set it | now".to_owned()))
        );
        assert_eq!(of(r#"{{ .Values.no | required "x" }}"#).unwrap(), "false");
        for bad in [
            "{{ range .Values.a }}",
            "{{ .Values.a | upper }}",
            "{{ .Vals.a }}",
            "{{ if .Values.a }}",
            "{{ end }}",
            "{{ .Values.a ",
            "{{ include \"x\" . }}",
        ] {
            assert!(
                matches!(of(bad), Err(TemplateError::Unknown { .. })),
                "{bad}"
            );
        }
    }
}
