//! The list of all fields of all kinds, as the documentation has it.

use crate::{
    fields::{Standing, paths},
    finding::Code,
    kinds::Known,
};

const HEAD: &str = "# Traffic policy: kinds and their fields

A controller reads these objects from its `--manifests` directory and gives its cluster's proxies the rules for calls to each service; what is wrong or without effect stands in `tradewind status`.
`tradewind analyze` says the same of files before anybody acts on them. Rules hold for HTTP/1, HTTP/2, gRPC and WebSocket calls of callers with a proxy in this cluster, wherever the backends are.
A proxy keeps its rules while no controller answers.

What a rule answers itself carries `tradewind-error`: `no-rule` (404: there are rules, and none for this request), `no-backend` (500), `fault`, `timeout` (504).

Retries that a rule asks for come out of the same budget as all others: a fifth of the calls to a service.

Every field of every kind that is read is either acted on or reported, by its path. `[]` stands for a list's items, `{}` for a map's.

Rules hold for a service and its callers. Where several objects have rules for the same ones, Gateway API's go before Istio's and those before SMI's. Gateway API's
routes are one list, by the precedence that it states; of the others one object holds: one that names the service before one that means it by a `*`, then the oldest, then by
namespace and name. Rules for callers of one namespace (a Gateway API route in another namespace than its parent's, a VirtualService with `exportTo`) go before those for
everybody. What does not hold is reported.

A Service and a ServiceImport of one name are the same service: it is the same in every cluster, and calls prefer what is near.

";

/// All of it, as `docs/policy-fields.md` is.
pub fn fields_as_markdown() -> String {
    let mut out = HEAD.to_owned();
    for kind in Known::ALL {
        let versions = kind.versions().join(", ");
        out.push_str(&format!(
            "## {}\n\n`{}`: {versions}\n\n| field of `spec` | |\n|---|---|\n",
            kind.kind(),
            kind.group()
        ));
        for (path, standing) in paths(kind.fields()) {
            let is = match standing {
                Standing::Honoured => "honoured",
                Standing::Reported(instead) => &format!("reported: {instead}"),
                Standing::Inert => "changes nothing, and is not meant to",
            };
            out.push_str(&format!("| `{path}` | {is} |\n"));
        }
        out.push('\n');
    }
    out.push_str("## Findings\n\n| code | severity | what to do |\n|---|---|---|\n");
    for code in Code::ALL {
        let (word, severity) = (code.as_str(), code.severity().as_str());
        out.push_str(&format!("| {word} | {severity} | {} |\n", code.hint()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_field() {
        let written = include_str!("../../docs/policy-fields.md");
        let now = fields_as_markdown();
        if written != now {
            let at = std::env::temp_dir().join("policy-fields.md");
            std::fs::write(&at, &now).unwrap();
            panic!(
                "docs/policy-fields.md is not what the code says; copy {} there",
                at.display()
            );
        }
    }
}
