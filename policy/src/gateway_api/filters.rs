//! What a rule's filters make of its action.

use tradewind_api::route::{
    Action, Cors, HeaderEdits, MILLION, Mirror, PathEdit, Redirect, RedirectPort, Rewrite, Text, To,
};

use super::{
    Reader, answers_500,
    types::{CorsFilter, Filter, HeaderFilter, MirrorFilter, PathModifier, RedirectFilter},
};
use crate::{
    object::{At, Report},
    values::{header, header_name, header_names, methods},
};

impl Reader<'_> {
    /// Adds what the filters say. One that is not there, or of a kind that is not served, makes 500 of the rule: the API has it
    /// so, lest what it guards goes unguarded.
    pub(super) fn filters(
        &self,
        filters: &[Filter],
        action: &mut Action,
        at: &At,
        report: &mut Report<'_>,
    ) {
        let has = |kind: &str| filters.iter().position(|f| f.kind == kind);
        let clash = has("RequestRedirect").and(has("URLRewrite"));
        for (i, filter) in filters.iter().enumerate() {
            let at = at.field("filters").index(i);
            let served = match filter.kind.as_str() {
                "RequestHeaderModifier" => {
                    let at = at.field("requestHeaderModifier");
                    let modifier = filter.request_header_modifier.as_ref();
                    action.edits.request = self.headers(modifier, &at, report);
                    modifier.is_some()
                }
                "ResponseHeaderModifier" => {
                    let at = at.field("responseHeaderModifier");
                    let modifier = filter.response_header_modifier.as_ref();
                    action.edits.response = self.headers(modifier, &at, report);
                    modifier.is_some()
                }
                "RequestRedirect" => match &filter.request_redirect {
                    Some(redirect) => {
                        let at = at.field("requestRedirect");
                        action.to = To::Redirect(self.redirect(redirect, &at, report));
                        true
                    }
                    None => false,
                },
                "URLRewrite" => match &filter.url_rewrite {
                    Some(rewrite) => {
                        let at = at.field("urlRewrite").field("path");
                        let path = rewrite.path.as_ref();
                        action.rewrite = Rewrite {
                            authority: rewrite.hostname.clone(),
                            path: path.and_then(|p| path_edit(p, &at, report)),
                        };
                        true
                    }
                    None => false,
                },
                "RequestMirror" => match &filter.request_mirror {
                    Some(mirror) => {
                        let at = at.field("requestMirror");
                        action.mirrors.push(self.mirror(mirror, &at, report));
                        true
                    }
                    None => false,
                },
                "CORS" => match &filter.cors {
                    Some(cors) => {
                        action.cors = Some(self.cors(cors, &at.field("cors"), report));
                        true
                    }
                    None => false,
                },
                _ => false,
            };
            if !served {
                let text = format!(
                    "filter {} is not served, or its settings are missing; requests of the rule are answered with 500",
                    filter.kind
                );
                report.unserved(&at.field("type"), text);
                action.to = answers_500();
            }
        }
        if let Some(i) = clash {
            let text = "URLRewrite does not go together with RequestRedirect; requests of the rule are answered with 500";
            report.unserved(&at.field("filters").index(i), text.to_owned());
            action.to = answers_500();
        }
    }

    pub(super) fn headers(
        &self,
        filter: Option<&HeaderFilter>,
        at: &At,
        report: &mut Report<'_>,
    ) -> HeaderEdits {
        let Some(filter) = filter else {
            return HeaderEdits::default();
        };
        let mut fields = |list: &[super::types::Header], key: &str| {
            let at = at.field(key);
            let mut all: Vec<(String, String)> = Vec::new();
            for (i, h) in list.iter().enumerate() {
                let Some(field) = header(&h.name, &h.value, &at.index(i), report) else {
                    continue;
                };
                // Of several for one name the first counts.
                if all.iter().all(|(name, _)| *name != field.0) {
                    all.push(field);
                }
            }
            all
        };
        let (set, add) = (fields(&filter.set, "set"), fields(&filter.add, "add"));
        let at = at.field("remove");
        let removed = filter.remove.iter().enumerate();
        HeaderEdits {
            set,
            add,
            remove: removed
                .filter_map(|(i, name)| header_name(name, &at.index(i), report))
                .collect(),
        }
    }

    fn redirect(&self, filter: &RedirectFilter, at: &At, report: &mut Report<'_>) -> Redirect {
        let code = filter.status_code.unwrap_or(302);
        if !matches!(code, 301 | 302 | 303 | 307 | 308) {
            report.invalid(
                &at.field("statusCode"),
                &code.to_string(),
                "301, 302, 303, 307 or 308",
            );
        }
        let port = match (filter.port, &filter.scheme) {
            (Some(port), _) => RedirectPort::Number(port),
            // Its well-known port.
            (None, Some(_)) => RedirectPort::OfScheme,
            (None, None) => RedirectPort::OfRequest,
        };
        Redirect {
            code,
            scheme: filter.scheme.clone(),
            host: filter.hostname.clone(),
            port,
            path: filter
                .path
                .as_ref()
                .and_then(|p| path_edit(p, &at.field("path"), report)),
        }
    }

    fn mirror(&self, filter: &MirrorFilter, at: &At, report: &mut Report<'_>) -> Mirror {
        let to = self.reference(&filter.backend_ref, &at.field("backendRef"), report);
        let share = match (&filter.fraction, filter.percent) {
            (Some(fraction), _) => {
                let of = u64::from(fraction.denominator.unwrap_or(100)).max(1);
                u64::from(fraction.numerator) * u64::from(MILLION) / of
            }
            (None, Some(percent)) => u64::from(percent) * u64::from(MILLION) / 100,
            (None, None) => u64::from(MILLION),
        };
        Mirror {
            to,
            share: u32::try_from(share).unwrap_or(MILLION).min(MILLION),
        }
    }

    fn cors(&self, filter: &CorsFilter, at: &At, report: &mut Report<'_>) -> Cors {
        let credentials = filter.allow_credentials.unwrap_or(false);
        let origins = &filter.allow_origins;
        Cors {
            origins: origins.iter().map(|o| origin(o)).collect(),
            methods: methods(&filter.allow_methods, &at.field("allowMethods"), report),
            headers: header_names(&filter.allow_headers, &at.field("allowHeaders"), report),
            expose: header_names(&filter.expose_headers, &at.field("exposeHeaders"), report),
            // The API's default.
            max_age_s: Some(filter.max_age.unwrap_or(5)),
            credentials,
            forwards_unmatched: false,
        }
    }
}

/// An origin: `*` is any, and a `*` inside of a host is any of its labels. Browsers leave out the port that the scheme means.
fn origin(text: &str) -> Text {
    let usual = match text.split_once("://") {
        Some(("http", _)) => ":80",
        Some(("https", _)) => ":443",
        _ => "",
    };
    let text = text.strip_suffix(usual).unwrap_or(text);
    if text == "*" {
        Text::Present
    } else if text.contains('*') {
        let parts: Vec<_> = text.split('*').map(escaped).collect();
        Text::Regex(parts.join(".+"))
    } else {
        Text::Exact(text.to_owned())
    }
}

/// A text as an expression for itself.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_alphanumeric() && c.is_ascii() {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn path_edit(modifier: &PathModifier, at: &At, report: &mut Report<'_>) -> Option<PathEdit> {
    let full = modifier.replace_full_path.clone();
    let prefix = modifier.replace_prefix_match.clone();
    match (modifier.kind.as_str(), full, prefix) {
        ("ReplaceFullPath", Some(with), _) => Some(PathEdit::Whole(with)),
        ("ReplacePrefixMatch", _, Some(with)) => Some(PathEdit::Matched(with)),
        _ => {
            report.invalid(
                &at.field("type"),
                &modifier.kind,
                "ReplaceFullPath with replaceFullPath, or ReplacePrefixMatch with replacePrefixMatch",
            );
            None
        }
    }
}
