//! What an answer counts as when its endpoint is judged by it: its HTTP status, and for gRPC the one that its own status stands for. Pure.

use http::Response;

/// Of a response's head. A gRPC answer that has only a head says there how it ended.
pub(super) fn of<B>(response: &Response<B>) -> u16 {
    let grpc = response.headers().get("grpc-status");
    let grpc = grpc.and_then(|v| v.to_str().ok()?.parse::<u16>().ok());
    grpc.map_or_else(|| response.status().as_u16(), of_grpc)
}

/// As gRPC's mapping between the two has it, and Envoy's detection counts by.
const fn of_grpc(status: u16) -> u16 {
    match status {
        0 => 200,
        // CANCELLED: the caller left.
        1 => 499,
        // INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE.
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        // ALREADY_EXISTS, ABORTED.
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        // UNKNOWN, INTERNAL, DATA_LOSS, and what nobody knows.
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_answer_counts_as_what_its_status_stands_for() {
        let response = |status: u16, grpc: Option<&str>| {
            let mut builder = Response::builder().status(status);
            if let Some(grpc) = grpc {
                builder = builder.header("grpc-status", grpc);
            }
            builder.body(()).unwrap()
        };
        for (status, grpc, counts) in [
            (200, None, 200),
            (503, None, 503),
            (200, Some("0"), 200),
            (200, Some("14"), 503),
            (200, Some("4"), 504),
            (200, Some("13"), 500),
            (200, Some("8"), 429),
            (200, Some("99"), 500),
            (200, Some("none"), 200),
        ] {
            assert_eq!(of(&response(status, grpc)), counts, "{status} {grpc:?}");
        }
    }
}
