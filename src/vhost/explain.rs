//! Where would a message go, and which rule says so? It is routed as it would be, but not published, and no exchange
//! remembers it.

use super::Vhost;
use super::publish::Passed;
use crate::amqp::properties::Properties;
use crate::exchange::{Binding, Destination, Router, Type};
use crate::refusal::Refusal;
use std::sync::Arc;

/// The way of a message.
#[derive(Debug, Default)]
pub struct Explained {
    /// The exchanges on it, in their order.
    pub steps: Vec<Step>,
    /// The queues that it reaches, each once, by name.
    pub queues: Vec<Arc<str>>,
}

/// What an exchange does with it.
#[derive(Debug)]
pub struct Step {
    /// "" is the default exchange.
    pub exchange: Arc<str>,
    pub kind: Type,
    /// The bindings that take it. Where several are needed to choose one, by a hash or by chance, that one.
    pub bindings: Vec<Binding>,
    pub decision: Decision,
}

/// By which rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A queue's name is its key in the default exchange.
    QueueName,
    /// What its bindings match.
    Bindings,
    /// A hash of the message and all bindings of the exchange together.
    Hash,
    /// Chance, which may have it otherwise the next time.
    Chance,
    /// No binding takes it, so this exchange gets it.
    Alternate(Arc<str>),
    /// Its time has not come: it waits, and is routed then.
    Delay,
    /// No binding takes it, and there is no alternate exchange.
    Nothing,
}

impl Vhost {
    /// Routes a message that nobody publishes. `keys` are the routing key, then those of `CC` and `BCC`.
    pub fn explain(&self, exchange: &str, keys: &[&str], properties: &Properties<'_>) -> Result<Explained, Refusal> {
        let mut explained = Explained::default();
        let route = self.walk(exchange, keys, Some(properties), false, |passed| {
            explained.steps.push(Step::of(&passed));
        })?;
        if exchange.is_empty() {
            let decision = if route.targets.is_empty() { Decision::Nothing } else { Decision::QueueName };
            let (name, kind) = ("".into(), Type::Direct);
            explained.steps.push(Step { exchange: name, kind, bindings: Vec::new(), decision });
        }
        explained.queues = route.targets.iter().map(|queue| Arc::clone(&queue.identity.name)).collect();
        explained.queues.sort_unstable();
        Ok(explained)
    }
}

impl Step {
    fn of(passed: &Passed<'_>) -> Self {
        let Passed { exchange, subject } = passed;
        let of =
            |decision, bindings| Self { exchange: Arc::clone(&exchange.name), kind: exchange.kind, bindings, decision };
        let Some(subject) = subject else { return of(Decision::Delay, Vec::new()) };
        let mut reached: Vec<Destination> = Vec::new();
        exchange.router.route(subject, &mut |destination| reached.push(destination.clone()));
        let kind = exchange.router.kind();
        let decision = match (kind, reached.is_empty(), &exchange.alternate) {
            (_, true, Some(alternate)) => Decision::Alternate(Arc::clone(alternate)),
            (_, true, None) => Decision::Nothing,
            (Type::ConsistentHash | Type::ModulusHash, ..) => Decision::Hash,
            (Type::Random | Type::LocalRandom, ..) => Decision::Chance,
            _ => Decision::Bindings,
        };
        let each_decides = decision == Decision::Bindings;
        let takes = |binding: &&Binding| {
            if !reached.contains(&binding.destination) {
                return false;
            }
            // Whether it would alone, too.
            let mut alone = Router::new(kind, &exchange.arguments);
            alone.bind((*binding).clone());
            let mut taken = !each_decides;
            alone.route(subject, &mut |_| taken = true);
            taken
        };
        of(decision, exchange.router.bindings().filter(takes).cloned().collect())
    }
}
