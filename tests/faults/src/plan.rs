//! The queues of a run, and how messages get there.

use crate::amqp::{Argument, Client};
use crate::recorder::Recorder;
use leveret_checker::{Event, Kind};
use std::io;

/// What of a broker is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// Everything: what Leveret promises.
    Full,
    /// Durable classic queues and nothing else.
    Classic,
    /// Quorum queues and nothing else.
    Quorum,
}

#[derive(Debug, Clone)]
pub struct Queue {
    pub name: &'static str,
    durable: bool,
    kind: Kind,
    arguments: Vec<(String, Argument)>,
    dead_letters_to: Option<&'static str>,
    drops: bool,
    priorities: bool,
    /// The broker's count of it stands still while nobody does anything.
    pub quiet: bool,
}

/// Where publishers publish to.
#[derive(Debug, Clone)]
pub struct Route {
    pub exchange: &'static str,
    pub key: &'static str,
    pub queues: Vec<&'static str>,
    pub priorities: bool,
    pub expires: bool,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub queues: Vec<Queue>,
    pub routes: Vec<Route>,
    /// Who consumes while the load runs.
    pub consumed: Vec<&'static str>,
    /// Whether transactions are part of it: from `tx-in` to `tx-one` and `tx-two`.
    pub transactions: bool,
    /// Whether clients with classic queues of their own are beside the publishers and consumers.
    pub company: bool,
}

/// Bound to several queues.
const ALL: &str = "faults.all";
/// Bound to where transactions publish.
pub const TRANSACTIONS: &str = "faults.tx";
/// For queues that come and go, bound by their names.
pub const CHURN: &str = "faults.churn";

impl Queue {
    fn durable(name: &'static str) -> Self {
        Self {
            name,
            durable: true,
            kind: Kind::Classic,
            arguments: Vec::new(),
            dead_letters_to: None,
            drops: false,
            priorities: false,
            quiet: true,
        }
    }

    fn of(mut self, kind: Kind) -> Self {
        self.kind = kind;
        if kind == Kind::Quorum {
            self = self.with("x-queue-type", Argument::Text("quorum".into()));
            // What comes back too often is dropped otherwise, which nobody could tell from a loss.
            self = self.with("x-delivery-limit", Argument::Number(-1));
        }
        self
    }

    fn with(mut self, key: &str, value: Argument) -> Self {
        self.arguments.push((key.to_owned(), value));
        self
    }

    fn mortal(mut self, to: &'static str) -> Self {
        self.dead_letters_to = Some(to);
        self.quiet = false;
        self.with("x-dead-letter-exchange", Argument::Text(String::new()))
            .with("x-dead-letter-routing-key", Argument::Text(to.into()))
    }

    fn dropping(mut self) -> Self {
        self.drops = true;
        self.quiet = false;
        self
    }

    fn loud(mut self) -> Self {
        self.quiet = false;
        self
    }
}

impl Plan {
    pub fn of(style: Style) -> Self {
        let to = |queue: &'static str| Route {
            exchange: "",
            key: queue,
            queues: vec![queue],
            priorities: false,
            expires: false,
        };
        let kind = if style == Style::Quorum { Kind::Quorum } else { Kind::Classic };
        let plain = ["plain-0", "plain-1"];
        let mut queues: Vec<Queue> = plain.iter().map(|name| Queue::durable(name).of(kind)).collect();
        let mut routes: Vec<Route> = plain.iter().map(|name| to(name)).collect();
        let mut all = plain.to_vec();
        let mut consumed = vec!["plain-0", "plain-0", "plain-1"];
        if style == Style::Full {
            let number = Argument::Number;
            queues.push(Queue::durable("quorum").of(Kind::Quorum));
            let mut prioritised = Queue::durable("priority").with("x-max-priority", number(5));
            prioritised.priorities = true;
            queues.push(prioritised);
            let mut transient = Queue::durable("transient");
            transient.durable = false;
            queues.push(transient);
            queues.push(Queue::durable("dead").loud());
            queues.push(Queue::durable("mortal").mortal("dead"));
            queues.push(Queue::durable("expiring").with("x-message-ttl", number(400)).mortal("dead").dropping());
            queues.push(Queue::durable("full").with("x-max-length", number(40)).mortal("dead").dropping());
            queues.push(Queue::durable("short").with("x-max-length", number(40)).dropping());
            let refusing = Queue::durable("refusing").with("x-max-length", number(40));
            queues.push(refusing.with("x-overflow", Argument::Text("reject-publish".into())));
            queues.extend(["tx-in", "tx-one", "tx-two"].map(Queue::durable));
            let simple = ["quorum", "transient", "mortal", "mortal", "expiring", "full", "short", "refusing", "tx-in"];
            routes.extend(simple.iter().map(|name| to(name)));
            routes.push(Route { priorities: true, ..to("priority") });
            routes.push(Route { expires: true, ..to("mortal") });
            all.extend(["quorum", "priority"]);
            consumed.extend(["quorum", "priority", "mortal", "transient", "short"]);
        } else {
            queues.push(Queue::durable("plain-2").of(kind));
            routes.push(to("plain-2"));
            all.push("plain-2");
            consumed.extend(["plain-1", "plain-2", "plain-2"]);
        }
        routes.push(Route { exchange: ALL, key: "", queues: all, priorities: false, expires: false });
        Self { queues, routes, consumed, transactions: style == Style::Full, company: style != Style::Quorum }
    }

    /// Declares all of it, once more if it is there.
    pub fn declare(&self, client: &mut Client, recorder: &Recorder) -> io::Result<()> {
        for queue in &self.queues {
            recorder.note(Event::Declare {
                queue: queue.name.to_owned(),
                durable: queue.durable,
                kind: queue.kind,
                dead_letters_to: queue.dead_letters_to.map(str::to_owned),
                drops: queue.drops,
                priorities: queue.priorities,
            });
            client.declare(queue.name, queue.durable, &queue.arguments)?;
            recorder.note(Event::DeclareOk { queue: queue.name.to_owned() });
        }
        for name in [ALL, TRANSACTIONS] {
            client.declare_exchange(name, "fanout")?;
        }
        client.declare_exchange(CHURN, "direct")?;
        let all = self.routes.iter().filter(|route| route.exchange == ALL).flat_map(|route| &route.queues);
        for queue in all {
            client.bind(queue, ALL, "")?;
        }
        if self.transactions {
            for queue in ["tx-one", "tx-two"] {
                client.bind(queue, TRANSACTIONS, "")?;
            }
        }
        Ok(())
    }

    pub fn is_quiet(&self, name: &str) -> bool {
        self.queues.iter().find(|queue| queue.name == name).is_none_or(|queue| queue.quiet)
    }
}
