//! What a broker says it keeps: its durability class.

use crate::Crash;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promises {
    /// The name under which results of this class are added up.
    pub class: String,
    /// Confirmed persistent messages in durable queues are there after such a crash.
    pub confirmed_survive: Survives,
    /// So is what was settled; see [`Promises::settled_within_ms`].
    pub settled_survive: Survives,
    /// What was settled, and synced, this long before a crash stays settled; what is younger may come again.
    pub settled_within_ms: u64,
    /// Durable queues are there, or not, as was acknowledged.
    pub topology_survives: Survives,
    /// A transaction happens as a whole or not at all, whatever crashes.
    pub transactions_atomic: bool,
    /// What is confirmed on a channel is confirmed in the order in which it was published.
    pub confirms_in_order: bool,
    /// Who was delivered a message is not forgotten over a crash: the next delivery is flagged.
    pub flags_survive: bool,
    /// How many messages of a queue may be flagged after a crash although nobody saw them; `None`: all.
    pub flagged_max: Option<u64>,
    /// What a passive declaration counts is what is there.
    pub counts_exact: bool,
    /// A crash leaves no dead letter both in its old and in its new queue.
    pub dead_letters_once: bool,
}

/// Over which crash something is kept. A clean stop keeps everything that may be kept at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survives {
    pub stop: bool,
    pub kill: bool,
    pub power: bool,
}

impl Survives {
    pub const NOTHING: Self = Self { stop: false, kill: false, power: false };
    pub const STOP: Self = Self { stop: true, kill: false, power: false };
    pub const KILL: Self = Self { stop: true, kill: true, power: false };
    pub const POWER: Self = Self { stop: true, kill: true, power: true };

    pub fn over(self, crash: Crash) -> bool {
        match crash {
            Crash::Stop => self.stop,
            Crash::Kill => self.kill,
            Crash::Power => self.power,
        }
    }
}

impl Promises {
    /// Leveret as it is by default: a confirm comes after the sync.
    pub fn leveret() -> Self {
        Self {
            class: "leveret fsync".into(),
            confirmed_survive: Survives::POWER,
            settled_survive: Survives::POWER,
            settled_within_ms: 2000,
            topology_survives: Survives::POWER,
            transactions_atomic: true,
            confirms_in_order: true,
            flags_survive: true,
            // The mark that is reserved ahead, and what was on its way to consumers.
            flagged_max: Some(16_384 + 2 * 4096),
            counts_exact: true,
            dead_letters_once: true,
        }
    }

    /// Leveret with `--durability os`.
    pub fn leveret_os() -> Self {
        let survive = Survives::KILL;
        Self {
            class: "leveret os".into(),
            confirmed_survive: survive,
            settled_survive: survive,
            topology_survives: survive,
            transactions_atomic: false,
            flags_survive: false,
            ..Self::leveret()
        }
    }

    /// Leveret with `--durability memory`.
    pub fn leveret_memory() -> Self {
        let survive = Survives::NOTHING;
        Self { class: "leveret memory".into(), confirmed_survive: survive, ..Self::leveret_os() }
    }

    /// RabbitMQ 4's classic queues: a confirm comes after the write, which no sync follows.
    pub fn rabbitmq_classic() -> Self {
        Self {
            class: "rabbitmq classic".into(),
            confirmed_survive: Survives::KILL,
            settled_survive: Survives::STOP,
            settled_within_ms: 2000,
            topology_survives: Survives::POWER,
            transactions_atomic: false,
            confirms_in_order: false,
            flags_survive: true,
            flagged_max: None,
            // Its figures may be those of a moment ago.
            counts_exact: false,
            dead_letters_once: false,
        }
    }

    /// RabbitMQ 4's quorum queues.
    pub fn rabbitmq_quorum() -> Self {
        Self {
            class: "rabbitmq quorum".into(),
            confirmed_survive: Survives::POWER,
            settled_survive: Survives::POWER,
            ..Self::rabbitmq_classic()
        }
    }

    /// By the name of a class.
    pub fn of(class: &str) -> Option<Self> {
        let known = [
            Self::leveret(),
            Self::leveret_os(),
            Self::leveret_memory(),
            Self::rabbitmq_classic(),
            Self::rabbitmq_quorum(),
        ];
        known.into_iter().find(|promises| promises.class == class)
    }
}
