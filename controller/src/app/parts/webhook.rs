//! Starts the webhook: what answers the API server, and what tells it whom to believe. Neither waits for the store or for the other.

use std::sync::Arc;

use tradewind_runtime::{TaskSet, drain};

use super::Parts;
use crate::webhook::{Webhook, keep_published};

/// The chart's MutatingWebhookConfiguration.
const CONFIGURATION: &str = "tradewind-injection";

impl Parts {
    /// Starts both. Without a way to an API server nobody is told.
    pub(in crate::app) fn serve_webhook(
        &mut self,
        webhook: Webhook,
        tasks: &mut TaskSet,
        drain: &drain::Watch,
    ) {
        if let Some(client) = self.kubernetes.clone() {
            let publish = keep_published(
                webhook.bundle(),
                client,
                CONFIGURATION.to_owned(),
                Arc::clone(&self.clock),
                self.rng.fork(),
            );
            tasks.spawn("webhook-bundle", publish);
        }
        tasks.spawn("webhook", webhook.run(drain.clone()));
    }
}
