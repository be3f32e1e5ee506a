//! A queue's arguments, checked once and then typed.
//!
//! Which arguments there are, which type of queue knows which, what they may be and how RabbitMQ 4.3 says no, in its
//! order (`rabbit_amqqueue:check_declare_arguments` and the queue types' `capabilities`):
//!
//! 1. `x-dead-letter-exchange` is a name,
//! 2. `x-queue-type` is a type,
//! 3. every argument that the type knows is right, in a fixed order,
//! 4. no argument is one that only other types know,
//! 5. the type can be durable, exclusive and so on.
//!
//! Arguments that no type knows are the user's own: kept, never compared.

use crate::amqp::table::{Table, Value, as_i64, as_str, type_name};
use crate::amqp::term::string;
use crate::declaration::{self, Difference};
use crate::policy::{Applied, Terms, smaller_limit};
use crate::refusal::Refusal;
use std::sync::Arc;

/// How a queue keeps and hands out its messages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum QueueType {
    #[default]
    Classic,
    Quorum,
    Stream,
}

/// What happens to a message that is one too many.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Overflow {
    /// The oldest go.
    #[default]
    DropHead,
    /// The new one is refused.
    RejectPublish,
    /// The new one is refused, and dead-lettered.
    RejectPublishDlx,
}

/// Which returned messages wait before they are delivered again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Retried {
    All,
    /// Those that count as failed deliveries.
    Failed,
    /// Those that were only given back.
    Returned,
}

/// A quorum queue's wait before a message is delivered again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DelayedRetry {
    pub of: Retried,
    /// The wait after the first delivery; it grows by as much with each further one.
    pub min_ms: u64,
    /// The longest wait.
    pub max_ms: u64,
}

impl DelayedRetry {
    /// Whether a message waits that came back, as a failure or not.
    pub fn applies(self, failed: bool) -> bool {
        match self.of {
            Retried::All => true,
            Retried::Failed => failed,
            Retried::Returned => !failed,
        }
    }
}

/// What a queue's arguments and its policies say together. `None` is what they leave open.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    pub queue_type: QueueType,
    /// How long a message may wait, at most.
    pub message_ttl_ms: Option<u64>,
    /// How long the queue may be unused; never 0.
    pub expires_ms: Option<u64>,
    /// Ready messages, at most.
    pub max_length: Option<u64>,
    /// Octets of ready messages' bodies, at most.
    pub max_length_bytes: Option<u64>,
    /// Never [`Overflow::RejectPublishDlx`] for a quorum queue, for which that means nothing.
    pub overflow: Overflow,
    /// An exchange's name; "" is the default exchange.
    pub dead_letter_exchange: Option<Arc<str>>,
    pub dead_letter_routing_key: Option<Arc<str>>,
    /// Asked for; without [`Overflow::RejectPublish`] and a dead letter exchange it falls back to at most once.
    pub dead_letter_at_least_once: bool,
    /// The highest priority a classic queue tells apart.
    pub max_priority: Option<u8>,
    pub single_active_consumer: bool,
    /// A quorum queue's failed deliveries, at most; negative is any number. Without one, [`DELIVERY_LIMIT_DEFAULT`].
    pub delivery_limit: Option<i64>,
    /// How long a consumer of a quorum queue may take for a message.
    pub consumer_timeout_ms: Option<u64>,
    pub delayed_retry: Option<DelayedRetry>,
    /// It holds back what an exchange of type `x-delayed-message` has to delay. No arguments or policies make a queue so.
    pub delays: bool,
    /// The policies that are in it, for listings.
    pub applied: Applied,
}

/// A queue as it is declared.
#[derive(Clone, Copy, Debug)]
pub struct Declared<'a> {
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub arguments: &'a Table,
}

/// A quorum queue's delivery limit if neither arguments nor policies have one.
pub const DELIVERY_LIMIT_DEFAULT: i64 = 20;
/// The longest time to live of messages and queues: ten years.
pub const EXPIRY_MS_MAX: i64 = 315_360_000_000;

const QUEUE_TYPE: &str = "x-queue-type";
const DEAD_LETTER_EXCHANGE: &str = "x-dead-letter-exchange";
const DEAD_LETTER_ROUTING_KEY: &str = "x-dead-letter-routing-key";
const OVERFLOW: &str = "x-overflow";
const DEAD_LETTER_STRATEGY: &str = "x-dead-letter-strategy";
const MAX_AGE: &str = "x-max-age";
const MASTER_LOCATOR: &str = "x-queue-master-locator";
const SEGMENT_BYTES: &str = "x-stream-max-segment-size-bytes";
const FILTER_BYTES: &str = "x-stream-filter-size-bytes";
/// Where a queue's leader goes in a cluster. The last three are names of old, taken as `balanced`.
const LEADER_LOCATORS: [&str; 5] = ["client-local", "balanced", "random", "least-leaders", "min-masters"];
/// Octets of a stream's segment.
pub const SEGMENT_BYTES_MAX: i64 = 3_000_000_000;

impl Overflow {
    /// What this word of an argument or a policy says.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "drop-head" => Some(Self::DropHead),
            "reject-publish" => Some(Self::RejectPublish),
            "reject-publish-dlx" => Some(Self::RejectPublishDlx),
            _ => None,
        }
    }
}

impl QueueType {
    const ALL: [Self; 3] = [Self::Classic, Self::Quorum, Self::Stream];

    /// The type of this name, as `x-queue-type` has it.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
            Self::Stream => "stream",
        }
    }

    /// RabbitMQ's module of this type, which its texts name.
    pub fn module(self) -> &'static str {
        match self {
            Self::Classic => "rabbit_classic_queue",
            Self::Quorum => "rabbit_quorum_queue",
            Self::Stream => "rabbit_stream_queue",
        }
    }

    /// The type that checked arguments ask for: classic if they leave it open.
    pub fn of(arguments: &Table) -> Self {
        chosen_type(arguments).and_then(as_str).and_then(Self::parse).unwrap_or(Self::Classic)
    }

    /// The arguments it knows, in the order in which a redeclaration's are compared.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Classic => &[
                "x-expires",
                "x-message-ttl",
                DEAD_LETTER_EXCHANGE,
                DEAD_LETTER_ROUTING_KEY,
                "x-max-length",
                "x-max-length-bytes",
                "x-max-priority",
                OVERFLOW,
                "x-queue-mode",
                "x-queue-version",
                "x-single-active-consumer",
                QUEUE_TYPE,
                MASTER_LOCATOR,
                "x-queue-leader-locator",
            ],
            Self::Quorum => &[
                DEAD_LETTER_EXCHANGE,
                DEAD_LETTER_ROUTING_KEY,
                DEAD_LETTER_STRATEGY,
                "x-expires",
                "x-max-length",
                "x-max-length-bytes",
                "x-max-in-memory-length",
                "x-max-in-memory-bytes",
                OVERFLOW,
                "x-single-active-consumer",
                QUEUE_TYPE,
                "x-quorum-initial-group-size",
                "x-delivery-limit",
                "x-message-ttl",
                "x-queue-leader-locator",
                "x-consumer-disconnected-timeout",
                "x-consumer-timeout",
                "x-delayed-retry-type",
                "x-delayed-retry-min",
                "x-delayed-retry-max",
            ],
            Self::Stream => &[
                "x-max-length-bytes",
                QUEUE_TYPE,
                MAX_AGE,
                SEGMENT_BYTES,
                FILTER_BYTES,
                "x-initial-cluster-size",
                "x-queue-leader-locator",
            ],
        }
    }

    /// Whether a queue of this type can be declared so.
    fn fits(self, declared: &Declared<'_>) -> bool {
        self == Self::Classic || (declared.durable && !declared.exclusive && !declared.auto_delete)
    }
}

/// The argument's value, unless it is one that stands for none ("" or "undefined").
fn chosen_type(arguments: &Table) -> Option<&Value> {
    arguments.inner().get(QUEUE_TYPE).filter(|value| !matches!(as_str(value), Some("" | "undefined")))
}

/// The arguments with the queue's type in them, which is how RabbitMQ keeps and lists them: `default` if they leave it
/// open, but classic where the default could not be declared so (`rabbit_amqqueue:augment_declare_args`).
pub fn with_type(declared: &Declared<'_>, default: QueueType) -> Table {
    let mut arguments = declared.arguments.clone();
    if chosen_type(&arguments).is_none() {
        let kind = if default.fits(declared) { default } else { QueueType::Classic };
        arguments.insert(QUEUE_TYPE.into(), Value::LongString(kind.name().into()));
    }
    arguments
}

/// What a consumer's arguments say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConsumerArguments {
    /// `x-priority`
    pub priority: i64,
    /// `x-consumer-timeout`: how long it may take for a message.
    pub timeout_ms: Option<u64>,
}

const PRIORITY: &str = "x-priority";
const CONSUMER_TIMEOUT: &str = "x-consumer-timeout";
const STREAM_CONSUMER: [&str; 3] = ["x-stream-offset", "x-stream-filter", "x-stream-match-unfiltered"];

impl ConsumerArguments {
    /// Checks the arguments of basic.consume (`rabbit_amqqueue:check_consume_arguments`): what the type of the queue
    /// knows must be right, what only other types know is refused.
    pub fn parse(resource: &str, queue_type: QueueType, arguments: &Table) -> Result<Self, Refusal> {
        let known: &[&str] = match queue_type {
            QueueType::Classic => &[PRIORITY],
            QueueType::Quorum => &[PRIORITY, CONSUMER_TIMEOUT],
            QueueType::Stream => &STREAM_CONSUMER,
        };
        let get = |key: &str| arguments.inner().get(key).filter(|_| known.contains(&key));
        let wrong = |key: &str, why: &str| invalid(resource, key, why);
        let priority = get(PRIORITY).map_or(Ok(0), integer).map_err(|why| wrong(PRIORITY, &why))?;
        let timeout = get(CONSUMER_TIMEOUT).map(|value| integer(value).and_then(not_negative)).transpose();
        let timeout = timeout.map_err(|why| wrong(CONSUMER_TIMEOUT, &why))?;
        let foreign = |key: &&str| {
            let of_others = [PRIORITY, CONSUMER_TIMEOUT].contains(key) || STREAM_CONSUMER.contains(key);
            of_others && !known.contains(key)
        };
        if let Some(key) = arguments.inner().keys().map(|key| key.as_str()).find(foreign) {
            let module = queue_type.module();
            return Err(Refusal::precondition(format!("invalid arg '{key}' for {resource} of queue type {module}")));
        }
        Ok(Self { priority, timeout_ms: timeout.and_then(|number| u64::try_from(number).ok()) })
    }
}

/// Whether the broker may name a queue with these arguments.
pub fn check_server_named(arguments: &Table) -> Result<(), Refusal> {
    match QueueType::of(arguments) {
        QueueType::Classic => Ok(()),
        kind => Err(Refusal::precondition(format!("Cannot declare a server-named queue for type {}", kind.module()))),
    }
}

/// What an argument may be.
#[derive(Clone, Copy)]
enum Check {
    /// Milliseconds.
    Expiry,
    /// Milliseconds, but not 0.
    ExpiryOfQueue,
    NotNegative,
    Positive,
    AtMost(i64),
    /// A version of classic queues: there is one.
    Version,
    Bool,
    RoutingKey,
    /// One of some words, and what the refusal calls another.
    OneOf(&'static [&'static str], &'static str),
    MaxAge,
}

/// In the order in which RabbitMQ checks them (`rabbit_amqqueue:declare_args`).
const CHECKS: [(&str, Check); 20] = [
    ("x-expires", Check::ExpiryOfQueue),
    ("x-message-ttl", Check::Expiry),
    (DEAD_LETTER_ROUTING_KEY, Check::RoutingKey),
    (DEAD_LETTER_STRATEGY, Check::OneOf(&["at-most-once", "at-least-once"], "invalid_dlx_strategy")),
    ("x-max-length", Check::NotNegative),
    ("x-max-length-bytes", Check::NotNegative),
    ("x-max-in-memory-length", Check::NotNegative),
    ("x-max-in-memory-bytes", Check::NotNegative),
    ("x-max-priority", Check::AtMost(255)),
    (OVERFLOW, Check::OneOf(&["drop-head", "reject-publish", "reject-publish-dlx"], "invalid_overflow")),
    ("x-queue-version", Check::Version),
    ("x-single-active-consumer", Check::Bool),
    ("x-consumer-timeout", Check::NotNegative),
    ("x-consumer-disconnected-timeout", Check::NotNegative),
    ("x-quorum-initial-group-size", Check::Positive),
    (MAX_AGE, Check::MaxAge),
    (SEGMENT_BYTES, Check::NotNegative),
    (FILTER_BYTES, Check::NotNegative),
    ("x-initial-cluster-size", Check::Positive),
    ("x-queue-leader-locator", Check::OneOf(&LEADER_LOCATORS, "invalid_queue_locator_arg")),
];

impl Check {
    /// An error is what RabbitMQ writes behind the colon, an Erlang term.
    fn apply(self, value: &Value, arguments: &Table) -> Result<(), String> {
        match self {
            Self::Expiry => expiry(integer(value)?),
            Self::ExpiryOfQueue => positive(integer(value)?).and_then(expiry),
            Self::NotNegative => not_negative(integer(value)?).map(drop),
            Self::Positive => not_negative(integer(value)?).and_then(positive).map(drop),
            Self::AtMost(max) => match not_negative(integer(value)?)? {
                number if number > max => Err(format!("{{max_value_exceeded,{number}}}")),
                _ => Ok(()),
            },
            Self::Version => match not_negative(integer(value)?)? {
                2 => Ok(()),
                number => Err(string(&format!("unsupported queue version '{number}'"))),
            },
            Self::Bool => match value {
                Value::Boolean(_) => Ok(()),
                other => Err(unacceptable_type(other)),
            },
            Self::RoutingKey => match text(value) {
                Ok(_) if !arguments.contains_key(DEAD_LETTER_EXCHANGE) => {
                    Err("routing_key_but_no_dlx_defined".to_owned())
                }
                result => result.map(drop),
            },
            Self::OneOf(words, other) => match longstr(value)?.filter(|word| words.contains(word)) {
                Some(_) => Ok(()),
                None => Err(other.to_owned()),
            },
            Self::MaxAge => match longstr(value)?.and_then(max_age_ms) {
                Some(_) => Ok(()),
                None => Err("invalid_max_age".to_owned()),
            },
        }
    }
}

fn integer(value: &Value) -> Result<i64, String> {
    as_i64(value).ok_or_else(|| string(&format!("expected integer, got {}", type_name(value))))
}

fn not_negative(number: i64) -> Result<i64, String> {
    if number < 0 { Err(format!("{{value_negative,{number}}}")) } else { Ok(number) }
}

fn positive(number: i64) -> Result<i64, String> {
    if number == 0 { Err(format!("{{value_zero,{number}}}")) } else { Ok(number) }
}

fn expiry(number: i64) -> Result<(), String> {
    match not_negative(number)? {
        number if number > EXPIRY_MS_MAX => Err(format!("{{value_too_large,{number}}}")),
        _ => Ok(()),
    }
}

fn unacceptable_type(value: &Value) -> String {
    format!("{{unacceptable_type,{}}}", type_name(value))
}

/// A long string's text; `None` if it is not UTF-8 and so none of the words that there are.
fn longstr(value: &Value) -> Result<Option<&str>, String> {
    if type_name(value) == "longstr" { Ok(as_str(value)) } else { Err(unacceptable_type(value)) }
}

/// A routing key. RabbitMQ takes any octets, but here, as on the wire, a key is UTF-8.
fn text(value: &Value) -> Result<&str, String> {
    longstr(value)?.ok_or_else(|| string("expected UTF-8"))
}

/// A stream's `x-max-age` (a number and a unit) in milliseconds.
pub fn max_age_ms(text: &str) -> Option<u64> {
    const SECOND_MS: u64 = 1000;
    const DAY_MS: u64 = 24 * 3600 * SECOND_MS;
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(unit_at);
    // RabbitMQ's pattern ends at the first line break.
    let unit_ms = match unit.split('\n').next()? {
        "Y" => 365 * DAY_MS,
        "M" => 30 * DAY_MS,
        "D" => DAY_MS,
        "h" => 3600 * SECOND_MS,
        "m" => 60 * SECOND_MS,
        "s" => SECOND_MS,
        _ => return None,
    };
    // Nor has it a largest number.
    let number = digits.bytes().fold(0, |n: u64, digit| n.saturating_mul(10).saturating_add((digit - b'0').into()));
    (!digits.is_empty() && number > 0).then(|| number.saturating_mul(unit_ms))
}

impl Settings {
    /// Whether dead letters stay in their queue until somebody takes them (RabbitMQ: "At-least-once dead lettering").
    pub fn keeps_dead(&self) -> bool {
        self.dead_letter_at_least_once && self.overflow == Overflow::RejectPublish
    }

    /// Checks a new queue's declaration: its settings without any policy. `resource` is "queue 'q' in vhost '/'".
    ///
    /// Whether the user may use the dead letter exchange, and whether there is room for another queue, is for others to
    /// say. Streams pass all of RabbitMQ's checks and are then refused.
    pub fn parse(resource: &str, declared: &Declared<'_>) -> Result<Self, Refusal> {
        let arguments = declared.arguments;
        declaration::named_exchange(resource, arguments, DEAD_LETTER_EXCHANGE)?;
        let queue_type = check_type(resource, arguments)?;
        check_values(resource, queue_type, arguments)?;
        check_keys(resource, queue_type, arguments)?;
        match queue_type {
            QueueType::Classic => check_master_locator(arguments)?,
            QueueType::Quorum => check_properties(resource, declared)?,
            QueueType::Stream => {
                check_properties(resource, declared)?;
                check_stream(arguments)?;
                return Err(Refusal::precondition(format!("cannot declare {resource}: streams are not supported yet")));
            }
        }
        Ok(Self::with_policy(arguments, Applied::default()))
    }

    /// What checked arguments and the queue's policies say together: of two numbers the smaller counts, of two names
    /// the argument's. Of two overflows the argument's counts for a classic queue and the policy's for a quorum queue
    /// (`rabbit_amqqueue_process:process_args_policy`, `rabbit_quorum_queue:gather_policy_config`).
    ///
    /// Policies say nothing about the highest priority and the single active consumer.
    pub fn with_policy(arguments: &Table, applied: Applied) -> Self {
        let queue_type = QueueType::of(arguments);
        let is_quorum = queue_type == QueueType::Quorum;
        let get = |key: &str| arguments.inner().get(key);
        let number = |key: &str| get(key).and_then(as_i64).and_then(|number| u64::try_from(number).ok());
        let smaller = |key: &str, policy: Option<u64>| number(key).into_iter().chain(policy).min();
        // A policy's time may be any number; ten years are as good as for ever.
        let smaller_ms = |key: &str, policy_ms: Option<u64>| {
            let policy_ms = policy_ms.map(|policy_ms| policy_ms.min(EXPIRY_MS_MAX.unsigned_abs()));
            smaller(key, policy_ms)
        };
        let text = |key: &str| get(key).and_then(as_str);
        let name = |key: &str, policy: &Option<Arc<str>>| text(key).map(Arc::from).or_else(|| policy.clone());
        let terms = applied.terms();
        let overflow = text(OVERFLOW).and_then(Overflow::parse);
        let overflow = match if is_quorum { terms.overflow.or(overflow) } else { overflow.or(terms.overflow) } {
            Some(Overflow::RejectPublishDlx) if is_quorum => Overflow::DropHead,
            overflow => overflow.unwrap_or_default(),
        };
        let at_least_once = text(DEAD_LETTER_STRATEGY).map(|strategy| strategy == "at-least-once");
        // Not checked by RabbitMQ either: what is no integer is no limit of one's own.
        let delivery_limit = get("x-delivery-limit").and_then(as_i64);
        Self {
            queue_type,
            message_ttl_ms: smaller_ms("x-message-ttl", terms.message_ttl_ms),
            expires_ms: smaller_ms("x-expires", terms.expires_ms),
            max_length: smaller("x-max-length", terms.max_length),
            max_length_bytes: smaller("x-max-length-bytes", terms.max_length_bytes),
            overflow,
            dead_letter_exchange: name(DEAD_LETTER_EXCHANGE, &terms.dead_letter_exchange),
            dead_letter_routing_key: name(DEAD_LETTER_ROUTING_KEY, &terms.dead_letter_routing_key),
            dead_letter_at_least_once: at_least_once.or(terms.dead_letter_at_least_once) == Some(true),
            max_priority: number("x-max-priority").and_then(|number| u8::try_from(number).ok()),
            single_active_consumer: get("x-single-active-consumer") == Some(&Value::Boolean(true)),
            delivery_limit: delivery_limit.into_iter().chain(terms.delivery_limit).reduce(smaller_limit),
            // Policies with these apply to classic queues too, which know nothing of them.
            consumer_timeout_ms: smaller("x-consumer-timeout", terms.consumer_timeout_ms).filter(|_| is_quorum),
            delayed_retry: delayed_retry(arguments, &terms).filter(|_| is_quorum),
            delays: false,
            applied,
        }
    }
}

fn check_type(resource: &str, arguments: &Table) -> Result<QueueType, Refusal> {
    let Some(value) = chosen_type(arguments) else { return Ok(QueueType::Classic) };
    let kind = longstr(value).and_then(|name| {
        let name = name.unwrap_or("\u{fffd}");
        QueueType::parse(name).ok_or_else(|| string(&format!("unsupported queue type '{name}'")))
    });
    kind.map_err(|why| invalid(resource, QUEUE_TYPE, &why))
}

fn check_values(resource: &str, queue_type: QueueType, arguments: &Table) -> Result<(), Refusal> {
    for (key, check) in CHECKS.iter().filter(|(key, _)| queue_type.arguments().contains(key)) {
        if let Some(value) = arguments.inner().get(*key) {
            check.apply(value, arguments).map_err(|why| invalid(resource, key, &why))?;
        }
    }
    Ok(())
}

fn invalid(resource: &str, key: &str, why: &str) -> Refusal {
    Refusal::precondition(format!("invalid arg '{key}' for {resource}: {why}"))
}

fn check_keys(resource: &str, queue_type: QueueType, arguments: &Table) -> Result<(), Refusal> {
    let others = |key: &str| QueueType::ALL.iter().any(|kind| kind.arguments().contains(&key));
    for key in arguments.inner().keys().map(|key| key.as_str()) {
        if others(key) && !queue_type.arguments().contains(&key) {
            let module = queue_type.module();
            return Err(Refusal::precondition(format!("invalid arg '{key}' for {resource} of queue type {module}")));
        }
    }
    Ok(())
}

/// RabbitMQ 4 knows the argument and no longer permits it, with an error that closes the connection. The reply text is
/// cut within the last of these lines.
fn check_master_locator(arguments: &Table) -> Result<(), Refusal> {
    if !arguments.contains_key(MASTER_LOCATOR) {
        return Ok(());
    }
    Err(Refusal::internal(
        "Feature `queue_master_locator` is deprecated.\n\
         By default, this feature is not permitted anymore.\n\
         The feature will be removed from a future major RabbitMQ version, regardless of the configuration; \
         actual version to be determined.\n\
         To continue, declare the queue without x-queue-master-locator.",
    ))
}

/// What queues that are replicated in a cluster can't be (`rabbit_queue_type_util`).
fn check_properties(resource: &str, declared: &Declared<'_>) -> Result<(), Refusal> {
    let property = match declared {
        Declared { auto_delete: true, .. } => "auto-delete",
        Declared { exclusive: true, .. } => "exclusive-owner",
        Declared { durable: false, .. } => "non-durable",
        _ => return Ok(()),
    };
    Err(Refusal::precondition(format!("invalid property '{property}' for {resource}")))
}

fn check_stream(arguments: &Table) -> Result<(), Refusal> {
    let number = |key: &str| arguments.inner().get(key).and_then(as_i64);
    if number(SEGMENT_BYTES).is_some_and(|bytes| bytes > SEGMENT_BYTES_MAX) {
        return Err(Refusal::precondition(format!("Exceeded max value for {SEGMENT_BYTES}")));
    }
    if number(FILTER_BYTES).is_some_and(|bytes| !(16..=255).contains(&bytes)) {
        return Err(Refusal::precondition(format!("Invalid value for {FILTER_BYTES}")));
    }
    Ok(())
}

/// Unchecked at declaration: what makes no sense leaves it off. Of two kinds the policy's counts, of two times the
/// shorter (`rabbit_quorum_queue:get_delayed_retry_config`).
fn delayed_retry(arguments: &Table, terms: &Terms) -> Option<DelayedRetry> {
    let get = |key: &str| arguments.inner().get(key);
    let positive = |key: &str, policy_ms: Option<u64>| {
        // What is negative is the smaller and makes no sense.
        let own_ms = get(key).and_then(as_i64).map(|number| u64::try_from(number).unwrap_or(0));
        own_ms.into_iter().chain(policy_ms).min().filter(|ms| *ms > 0)
    };
    let own = || get("x-delayed-retry-type").and_then(as_str);
    let of = match terms.delayed_retry_type.as_deref().or_else(own)? {
        "all" => Retried::All,
        "failed" => Retried::Failed,
        "returned" => Retried::Returned,
        _ => return None,
    };
    let min_ms = positive("x-delayed-retry-min", terms.delayed_retry_min_ms)?;
    let max_ms = positive("x-delayed-retry-max", terms.delayed_retry_max_ms).unwrap_or(min_ms);
    Some(DelayedRetry { of, min_ms, max_ms })
}

/// In what a declaration does not fit the queue that is there, once its exclusive owner has been checked
/// (`rabbit_amqqueue:assert_equivalence`), in this order: durable, auto-delete, then the arguments that the type of the queue *there*
/// knows. The declaration's own arguments are not checked.
pub fn differences(current: &Declared<'_>, received: &Declared<'_>) -> Vec<Difference> {
    // An exclusive queue is never durable, whatever was asked for.
    let durable = |declared: &Declared<'_>| declared.durable && !declared.exclusive;
    let fields = [
        Difference::of_field("durable", durable(current), durable(received)),
        Difference::of_field("auto_delete", current.auto_delete, received.auto_delete),
    ];
    let arguments = QueueType::of(current.arguments).arguments().iter().map(|key| {
        let (current, received) = (compared(key, current.arguments), compared(key, received.arguments));
        Difference::of_argument(key, current.as_ref(), received.as_ref())
    });
    fields.into_iter().chain(arguments).flatten().collect()
}

/// An argument as it is compared and shown: no type is classic, an age is milliseconds.
fn compared(key: &str, arguments: &Table) -> Option<Value> {
    let text = |text: &str| Value::LongString(text.into());
    match key {
        QUEUE_TYPE => Some(arguments.inner().get(key).cloned().unwrap_or_else(|| text(QueueType::Classic.name()))),
        MAX_AGE => {
            let value = arguments.inner().get(key)?;
            let age_ms = longstr(value).ok().flatten().and_then(max_age_ms);
            Some(age_ms.map_or_else(|| value.clone(), |age_ms| text(&age_ms.to_string())))
        }
        key => arguments.inner().get(key).cloned(),
    }
}

/// Arguments that look like a misspelling of a known one, and what was probably meant, for a warning in the log: nobody
/// else says that `x-mesage-ttl` does nothing.
pub fn misspelt(arguments: &Table) -> Vec<(String, &'static str)> {
    /// Letters that may be wrong, missing, too many or swapped.
    const SLIPS_MAX: usize = 2;
    let known = || QueueType::ALL.into_iter().flat_map(|kind| kind.arguments().iter().copied());
    let keys = arguments.inner().keys().map(|key| key.as_str());
    let unknown = keys.filter(|key| known().all(|name| name != *key));
    let guesses = unknown.filter_map(|key| {
        let tidy = key.to_lowercase().replace(['_', '.', ' '], "-");
        let tidy = if tidy.starts_with("x-") { tidy } else { format!("x-{tidy}") };
        let likely = known().min_by_key(|name| strsim::osa_distance(&tidy, name))?;
        (strsim::osa_distance(&tidy, likely) <= SLIPS_MAX).then(|| (key.to_owned(), likely))
    });
    guesses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{self, Policy};
    use crate::refusal::Reason;

    const QUEUE: &str = "queue 'q' in vhost '/'";

    fn table(fields: &[(&str, Value)]) -> Table {
        let mut table = Table::default();
        for (key, value) in fields {
            table.insert((*key).into(), value.clone());
        }
        table
    }

    fn text(text: &str) -> Value {
        Value::LongString(text.into())
    }

    fn int(number: i64) -> Value {
        Value::LongLongInt(number)
    }

    fn durable(arguments: &Table) -> Declared<'_> {
        Declared { durable: true, exclusive: false, auto_delete: false, arguments }
    }

    /// A durable queue of this type with these arguments.
    fn parse(kind: &str, fields: &[(&str, Value)]) -> Result<Settings, Refusal> {
        let mut arguments = table(fields);
        if !kind.is_empty() {
            arguments.insert(QUEUE_TYPE.into(), text(kind));
        }
        Settings::parse(QUEUE, &durable(&arguments))
    }

    /// What the refusal says behind the argument's name and the queue.
    fn refusal(kind: &str, fields: &[(&str, Value)]) -> String {
        let refusal = parse(kind, fields).expect_err("it is wrong");
        assert_eq!(refusal.reason, Reason::Precondition);
        let start = format!("invalid arg '{}' for {QUEUE}", fields[0].0);
        let end = refusal.text.strip_prefix(&start).unwrap_or_else(|| panic!("{} for {}", refusal.text, fields[0].0));
        end.trim_start_matches(": ").to_owned()
    }

    fn check_refusals(kind: &str, cases: &[(&str, Value, &str)]) {
        for (key, value, expected) in cases {
            assert_eq!(refusal(kind, &[(*key, value.clone())]), *expected, "{key} {value:?}");
        }
    }

    #[test]
    fn a_consumers_arguments_are_those_of_its_queues_type() {
        let parse = |queue_type, fields: &[(&str, Value)]| {
            ConsumerArguments::parse(QUEUE, queue_type, &table(fields)).map_err(|refusal| refusal.text)
        };
        let both = [("x-priority", int(-3)), ("x-consumer-timeout", int(5)), ("x-mine", Value::Void)];
        assert_eq!(parse(QueueType::Quorum, &both), Ok(ConsumerArguments { priority: -3, timeout_ms: Some(5) }));
        let foreign = "invalid arg 'x-consumer-timeout' for queue 'q' in vhost '/' of queue type rabbit_classic_queue";
        assert_eq!(parse(QueueType::Classic, &both), Err(foreign.to_owned()));
        let wrong = "invalid arg 'x-priority' for queue 'q' in vhost '/': \"expected integer, got longstr\"";
        assert_eq!(parse(QueueType::Classic, &[("x-priority", text("5"))]), Err(wrong.to_owned()));
        let negative = "invalid arg 'x-consumer-timeout' for queue 'q' in vhost '/': {value_negative,-1}";
        assert_eq!(parse(QueueType::Quorum, &[("x-consumer-timeout", int(-1))]), Err(negative.to_owned()));
    }

    #[test]
    fn a_queue_without_arguments_is_classic_and_unlimited() {
        let expected = Settings {
            queue_type: QueueType::Classic,
            message_ttl_ms: None,
            expires_ms: None,
            max_length: None,
            max_length_bytes: None,
            overflow: Overflow::DropHead,
            dead_letter_exchange: None,
            dead_letter_routing_key: None,
            dead_letter_at_least_once: false,
            max_priority: None,
            single_active_consumer: false,
            delivery_limit: None,
            consumer_timeout_ms: None,
            delayed_retry: None,
            delays: false,
            applied: Applied::default(),
        };
        for fields in [vec![], vec![(QUEUE_TYPE, text(""))], vec![(QUEUE_TYPE, text("undefined"))]] {
            assert_eq!(parse("", &fields), Ok(expected.clone()));
        }
    }

    #[test]
    fn a_classic_queue_takes_all_its_arguments() {
        let settings = parse(
            "classic",
            &[
                ("x-message-ttl", Value::ShortShortUInt(0)),
                ("x-expires", int(EXPIRY_MS_MAX)),
                ("x-max-length", Value::LongUInt(u32::MAX)),
                ("x-max-length-bytes", int(1 << 40)),
                (OVERFLOW, text("reject-publish-dlx")),
                (DEAD_LETTER_EXCHANGE, text("")),
                (DEAD_LETTER_ROUTING_KEY, text("k")),
                ("x-max-priority", Value::ShortShortUInt(255)),
                ("x-single-active-consumer", Value::Boolean(true)),
                ("x-queue-mode", int(5)),
                ("x-queue-version", int(2)),
                ("x-queue-leader-locator", text("min-masters")),
                ("x-mine", Value::Void),
            ],
        );
        let settings = settings.unwrap();
        assert_eq!((settings.message_ttl_ms, settings.expires_ms), (Some(0), Some(315_360_000_000)));
        assert_eq!((settings.max_length, settings.max_length_bytes), (Some(u32::MAX.into()), Some(1 << 40)));
        assert_eq!(settings.overflow, Overflow::RejectPublishDlx);
        assert_eq!(settings.dead_letter_exchange.as_deref(), Some(""));
        assert_eq!(settings.dead_letter_routing_key.as_deref(), Some("k"));
        assert_eq!((settings.max_priority, settings.single_active_consumer), (Some(255), true));
    }

    #[test]
    fn a_quorum_queue_takes_all_its_arguments() {
        let settings = parse(
            "quorum",
            &[
                (DEAD_LETTER_EXCHANGE, text("e")),
                (DEAD_LETTER_STRATEGY, text("at-least-once")),
                (OVERFLOW, text("reject-publish")),
                ("x-delivery-limit", int(-1)),
                ("x-consumer-timeout", int(0)),
                ("x-consumer-disconnected-timeout", int(1)),
                ("x-quorum-initial-group-size", int(3)),
                ("x-max-in-memory-length", int(0)),
                ("x-max-in-memory-bytes", int(0)),
                ("x-delayed-retry-type", text("failed")),
                ("x-delayed-retry-min", int(1000)),
                ("x-member-placement-tag", int(5)),
            ],
        );
        let settings = settings.unwrap();
        assert_eq!(settings.queue_type, QueueType::Quorum);
        assert!(settings.dead_letter_at_least_once);
        assert_eq!((settings.delivery_limit, settings.consumer_timeout_ms), (Some(-1), Some(0)));
        let expected = DelayedRetry { of: Retried::Failed, min_ms: 1000, max_ms: 1000 };
        assert_eq!(settings.delayed_retry, Some(expected));
    }

    #[test]
    fn what_a_quorum_queue_leaves_unchecked_counts_only_if_it_makes_sense() {
        for value in [text("5"), Value::Boolean(true), Value::Void] {
            assert_eq!(parse("quorum", &[("x-delivery-limit", value)]).unwrap().delivery_limit, None);
        }
        let overflow = parse("quorum", &[(OVERFLOW, text("reject-publish-dlx"))]).unwrap().overflow;
        assert_eq!(overflow, Overflow::DropHead);
        let retry = |kind, min, max| {
            let fields = [("x-delayed-retry-type", kind), ("x-delayed-retry-min", min), ("x-delayed-retry-max", max)];
            parse("quorum", &fields).unwrap().delayed_retry.map(|retry| (retry.min_ms, retry.max_ms))
        };
        assert_eq!(retry(text("all"), int(1), int(2)), Some((1, 2)));
        assert_eq!(retry(text("all"), int(1), int(0)), Some((1, 1)));
        assert_eq!(retry(text("all"), int(0), int(2)), None);
        assert_eq!(retry(text("all"), text("a"), int(2)), None);
        assert_eq!(retry(text("disabled"), int(1), int(2)), None);
        assert_eq!(retry(int(5), int(1), int(2)), None);
    }

    #[test]
    fn wrong_values_are_refused_in_rabbitmqs_words() {
        let decimal = Value::DecimalValue(amq_protocol::types::DecimalValue { scale: 1, value: 5 });
        let octets = || Value::ByteArray(b"drop-head".as_slice().into());
        check_refusals(
            "",
            &[
                ("x-message-ttl", int(-1), "{value_negative,-1}"),
                ("x-message-ttl", int(EXPIRY_MS_MAX + 1), "{value_too_large,315360000001}"),
                ("x-message-ttl", text("1000"), "\"expected integer, got longstr\""),
                ("x-message-ttl", Value::Boolean(true), "\"expected integer, got bool\""),
                ("x-message-ttl", Value::Double(1.5), "\"expected integer, got double\""),
                ("x-message-ttl", Value::Void, "\"expected integer, got void\""),
                ("x-message-ttl", decimal, "\"expected integer, got decimal\""),
                ("x-message-ttl", Value::Timestamp(5), "\"expected integer, got timestamp\""),
                ("x-expires", int(0), "{value_zero,0}"),
                ("x-expires", int(-5), "{value_negative,-5}"),
                ("x-expires", int(EXPIRY_MS_MAX + 1), "{value_too_large,315360000001}"),
                ("x-max-length", int(-1), "{value_negative,-1}"),
                ("x-max-length-bytes", text("1k"), "\"expected integer, got longstr\""),
                (OVERFLOW, text("bogus"), "invalid_overflow"),
                (OVERFLOW, text(""), "invalid_overflow"),
                (OVERFLOW, int(5), "{unacceptable_type,long}"),
                (OVERFLOW, octets(), "{unacceptable_type,binary}"),
                ("x-max-priority", int(256), "{max_value_exceeded,256}"),
                ("x-max-priority", int(-1), "{value_negative,-1}"),
                ("x-queue-version", int(1), "\"unsupported queue version '1'\""),
                ("x-queue-version", int(-1), "{value_negative,-1}"),
                ("x-queue-version", text("2"), "\"expected integer, got longstr\""),
                ("x-single-active-consumer", text("yes"), "{unacceptable_type,longstr}"),
                (QUEUE_TYPE, text("bogus"), "\"unsupported queue type 'bogus'\""),
                (QUEUE_TYPE, text("rabbit_quorum_queue"), "\"unsupported queue type 'rabbit_quorum_queue'\""),
                (QUEUE_TYPE, Value::Boolean(true), "{unacceptable_type,bool}"),
                (DEAD_LETTER_ROUTING_KEY, text("k"), "routing_key_but_no_dlx_defined"),
                (DEAD_LETTER_ROUTING_KEY, int(5), "{unacceptable_type,long}"),
                ("x-queue-leader-locator", text("bogus"), "invalid_queue_locator_arg"),
                ("x-queue-leader-locator", int(5), "{unacceptable_type,long}"),
            ],
        );
        check_refusals(
            "quorum",
            &[
                (DEAD_LETTER_STRATEGY, text("x"), "invalid_dlx_strategy"),
                (DEAD_LETTER_STRATEGY, int(5), "{unacceptable_type,long}"),
                ("x-quorum-initial-group-size", int(0), "{value_zero,0}"),
                ("x-quorum-initial-group-size", int(-1), "{value_negative,-1}"),
                ("x-consumer-timeout", int(-1), "{value_negative,-1}"),
                ("x-max-in-memory-bytes", text("x"), "\"expected integer, got longstr\""),
            ],
        );
        check_refusals(
            "stream",
            &[
                (MAX_AGE, text("1x"), "invalid_max_age"),
                (MAX_AGE, text("h"), "invalid_max_age"),
                (MAX_AGE, text("0h"), "invalid_max_age"),
                (MAX_AGE, text(" 7D"), "invalid_max_age"),
                (MAX_AGE, text(""), "invalid_max_age"),
                (MAX_AGE, int(5), "{unacceptable_type,long}"),
                (SEGMENT_BYTES, int(-1), "{value_negative,-1}"),
                ("x-initial-cluster-size", int(0), "{value_zero,0}"),
            ],
        );
    }

    #[test]
    fn arguments_of_other_types_are_refused() {
        let other = |kind, key| refusal(kind, &[(key, int(1))]);
        for key in ["x-delivery-limit", "x-quorum-initial-group-size", MAX_AGE, "x-consumer-timeout", FILTER_BYTES] {
            assert_eq!(other("", key), " of queue type rabbit_classic_queue");
        }
        for key in ["x-max-priority", "x-queue-mode", "x-queue-version", MASTER_LOCATOR, "x-initial-cluster-size"] {
            assert_eq!(other("quorum", key), " of queue type rabbit_quorum_queue");
        }
        for key in ["x-message-ttl", "x-expires", "x-max-length", "x-single-active-consumer", OVERFLOW] {
            assert_eq!(other("stream", key), " of queue type rabbit_stream_queue");
        }
    }

    #[test]
    fn the_first_of_several_mistakes_is_named() {
        let named = |kind, fields: &[(&str, Value)]| parse(kind, fields).unwrap_err().text;
        let dead_letters_first = named("bogus", &[(DEAD_LETTER_EXCHANGE, int(5)), ("x-expires", int(0))]);
        assert_eq!(dead_letters_first, format!("invalid type 'long' for arg 'x-dead-letter-exchange' in {QUEUE}"));
        assert_eq!(
            named("", &[("x-max-length", int(-1)), ("x-expires", int(0)), ("x-message-ttl", int(-1))]),
            format!("invalid arg 'x-expires' for {QUEUE}: {{value_zero,0}}")
        );
        assert_eq!(
            named("", &[("x-delivery-limit", int(5)), ("x-max-length", int(-1))]),
            format!("invalid arg 'x-max-length' for {QUEUE}: {{value_negative,-1}}")
        );
        let arguments = table(&[(QUEUE_TYPE, text("quorum")), ("x-max-priority", int(1))]);
        let declared = Declared { auto_delete: true, ..durable(&arguments) };
        assert_eq!(
            Settings::parse(QUEUE, &declared).unwrap_err().text,
            format!("invalid arg 'x-max-priority' for {QUEUE} of queue type rabbit_quorum_queue")
        );
    }

    #[test]
    fn quorum_queues_and_streams_are_durable_and_shared() {
        for kind in ["quorum", "stream"] {
            let arguments = table(&[(QUEUE_TYPE, text(kind))]);
            let refusal = |durable, exclusive, auto_delete| {
                let declared = Declared { durable, exclusive, auto_delete, arguments: &arguments };
                Settings::parse(QUEUE, &declared).unwrap_err().text
            };
            assert_eq!(refusal(false, true, true), format!("invalid property 'auto-delete' for {QUEUE}"));
            assert_eq!(refusal(false, true, false), format!("invalid property 'exclusive-owner' for {QUEUE}"));
            assert_eq!(refusal(false, false, false), format!("invalid property 'non-durable' for {QUEUE}"));
        }
    }

    #[test]
    fn streams_are_checked_and_then_refused() {
        let refused = |fields: &[(&str, Value)]| parse("stream", fields).unwrap_err().text;
        for age in ["1h", "07D", "7D\n", "99999999999999999999Y"] {
            assert_eq!(
                refused(&[(MAX_AGE, text(age))]),
                format!("cannot declare {QUEUE}: streams are not supported yet")
            );
        }
        assert_eq!(
            refused(&[(SEGMENT_BYTES, int(3_000_000_001))]),
            "Exceeded max value for x-stream-max-segment-size-bytes"
        );
        assert_eq!(refused(&[(FILTER_BYTES, int(15))]), "Invalid value for x-stream-filter-size-bytes");
        assert!(refused(&[(FILTER_BYTES, int(255)), (SEGMENT_BYTES, int(3_000_000_000))]).starts_with("cannot"));
    }

    #[test]
    fn the_master_locator_is_a_feature_of_the_past() {
        let refusal = parse("", &[(MASTER_LOCATOR, text("client-local"))]).unwrap_err();
        assert_eq!(refusal.reason, Reason::Internal);
        assert!(refusal.text.starts_with("Feature `queue_master_locator` is deprecated.\nBy default, this feature is"));
    }

    #[test]
    fn the_default_type_goes_where_it_fits() {
        let none = Table::default();
        let kind = |declared: &Declared<'_>| QueueType::of(&with_type(declared, QueueType::Quorum));
        assert_eq!(kind(&durable(&none)), QueueType::Quorum);
        assert_eq!(kind(&Declared { exclusive: true, ..durable(&none) }), QueueType::Classic);
        assert_eq!(kind(&Declared { durable: false, ..durable(&none) }), QueueType::Classic);
        let chosen = table(&[(QUEUE_TYPE, text("stream"))]);
        assert_eq!(with_type(&durable(&chosen), QueueType::Quorum), chosen);
        let explicit = with_type(&durable(&none), QueueType::Classic);
        assert_eq!(explicit, table(&[(QUEUE_TYPE, text("classic"))]));
    }

    #[test]
    fn only_classic_queues_are_named_by_the_server() {
        assert_eq!(check_server_named(&Table::default()), Ok(()));
        let refusal = check_server_named(&table(&[(QUEUE_TYPE, text("quorum"))])).unwrap_err();
        assert_eq!(refusal.text, "Cannot declare a server-named queue for type rabbit_quorum_queue");
    }

    /// The refusal to redeclare one durable queue as another, without its usual start.
    fn redeclared(current: &[(&str, Value)], received: &[(&str, Value)]) -> String {
        let (current, received) = (table(current), table(received));
        let differences = differences(&durable(&current), &durable(&received));
        let said: Vec<_> = differences.iter().map(ToString::to_string).collect();
        if said.is_empty() { "the same".to_owned() } else { said.join(", ") }
    }

    #[test]
    fn redeclaring_compares_the_arguments_that_the_type_knows() {
        let limit = |number| ("x-max-length", int(number));
        assert_eq!(redeclared(&[limit(10)], &[("x-max-length", Value::LongInt(10))]), "the same");
        assert_eq!(redeclared(&[], &[("x-custom", int(5)), ("x-delivery-limit", int(5))]), "the same");
        assert_eq!(redeclared(&[limit(10)], &[limit(-4)]), "'x-max-length': received '-4' but current is '10'");
        assert_eq!(
            redeclared(&[limit(10)], &[]),
            "'x-max-length': received none but current is the value '10' of type 'long'"
        );
        assert_eq!(
            redeclared(&[limit(10), ("x-expires", int(1))], &[limit(11), ("x-expires", int(2))]),
            "'x-expires': received '2' but current is '1', 'x-max-length': received '11' but current is '10'"
        );
    }

    #[test]
    fn redeclaring_as_another_type_is_refused() {
        let kind = |name| (QUEUE_TYPE, text(name));
        assert_eq!(redeclared(&[], &[kind("classic")]), "the same");
        assert_eq!(redeclared(&[kind("classic")], &[]), "the same");
        assert_eq!(redeclared(&[], &[kind("quorum")]), "'x-queue-type': received 'quorum' but current is 'classic'");
        assert_eq!(redeclared(&[kind("quorum")], &[]), "'x-queue-type': received 'classic' but current is 'quorum'");
        assert_eq!(
            redeclared(&[kind("quorum")], &[kind("classic"), ("x-max-length", int(5))]),
            "'x-max-length': received the value '5' of type 'long' but current is none, \
             'x-queue-type': received 'classic' but current is 'quorum'"
        );
        assert_eq!(redeclared(&[kind("quorum")], &[kind("quorum"), ("x-max-priority", int(5))]), "the same");
    }

    #[test]
    fn ages_are_compared_in_milliseconds() {
        let stream = |age| [(QUEUE_TYPE, text("stream")), (MAX_AGE, text(age))];
        assert_eq!(redeclared(&stream("7D"), &stream("168h")), "the same");
        assert_eq!(
            redeclared(&stream("7D"), &stream("8D")),
            "'x-max-age': received '691200000' but current is '604800000'"
        );
        assert_eq!(redeclared(&stream("7D"), &stream("8")), "'x-max-age': received '8' but current is '604800000'");
    }

    #[test]
    fn redeclaring_compares_properties_first() {
        let (ten, none) = (table(&[("x-max-length", int(10))]), Table::default());
        let current = durable(&ten);
        let said = |received| -> Vec<_> { differences(&current, &received).iter().map(ToString::to_string).collect() };
        let argument = "'x-max-length': received none but current is the value '10' of type 'long'";
        let auto_delete = "'auto_delete': received 'true' but current is 'false'";
        assert_eq!(
            said(Declared { durable: false, auto_delete: true, ..durable(&none) }),
            ["'durable': received 'false' but current is 'true'", auto_delete, argument]
        );
        assert_eq!(said(Declared { auto_delete: true, ..durable(&none) }), [auto_delete, argument]);
        let exclusive = Declared { exclusive: true, ..durable(&none) };
        assert_eq!(differences(&exclusive, &Declared { durable: false, ..exclusive }), []);
    }

    /// A queue of this type with these arguments, under a policy with this definition.
    fn under(kind: &str, fields: &[(&str, Value)], definition: serde_json::Value) -> Settings {
        let mut arguments = table(fields);
        arguments.insert(QUEUE_TYPE.into(), text(kind));
        Settings::parse(QUEUE, &durable(&arguments)).unwrap();
        let json = serde_json::json!({"pattern": "", "definition": definition});
        let policy = Policy::parse(policy::Kind::User, "p", json.as_object().unwrap()).unwrap();
        Settings::with_policy(&arguments, Applied { policy: Some(Arc::new(policy)), operator_policy: None })
    }

    #[test]
    fn of_an_arguments_and_a_policys_number_the_smaller_counts() {
        for kind in ["classic", "quorum"] {
            let keys = ["message-ttl", "expires", "max-length", "max-length-bytes"];
            for (own, policy) in [(1, 5), (5, 1)] {
                let fields: Vec<_> = keys.iter().map(|key| (format!("x-{key}"), int(own))).collect();
                let fields: Vec<_> = fields.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
                let definition: serde_json::Map<_, _> =
                    keys.iter().map(|key| ((*key).to_owned(), policy.into())).collect();
                let settings = under(kind, &fields, definition.into());
                let found =
                    [settings.message_ttl_ms, settings.expires_ms, settings.max_length, settings.max_length_bytes];
                assert_eq!(found, [Some(1); 4]);
            }
            let settings = under(kind, &[("x-max-length", int(5))], serde_json::json!({"message-ttl": 7}));
            assert_eq!((settings.max_length, settings.message_ttl_ms), (Some(5), Some(7)));
        }
        let timeout = |own, policy: u64| {
            under("quorum", &[("x-consumer-timeout", int(own))], serde_json::json!({"consumer-timeout": policy}))
        };
        assert_eq!((timeout(1, 2).consumer_timeout_ms, timeout(2, 1).consumer_timeout_ms), (Some(1), Some(1)));
    }

    #[test]
    fn a_policys_times_have_an_end_too() {
        let settings = under("classic", &[], serde_json::json!({"message-ttl": u64::MAX, "expires": u64::MAX}));
        assert_eq!((settings.message_ttl_ms, settings.expires_ms), (Some(315_360_000_000), Some(315_360_000_000)));
    }

    #[test]
    fn dead_letters_go_where_the_argument_says() {
        let definition = || serde_json::json!({"dead-letter-exchange": "theirs", "dead-letter-routing-key": "k"});
        for kind in ["classic", "quorum"] {
            let names = |fields: &[(&str, Value)]| {
                let settings = under(kind, fields, definition());
                let name = |name: Option<Arc<str>>| name.unwrap_or_default().to_string();
                (name(settings.dead_letter_exchange), name(settings.dead_letter_routing_key))
            };
            let both = |exchange: &str, key: &str| (exchange.to_owned(), key.to_owned());
            assert_eq!(names(&[]), both("theirs", "k"));
            assert_eq!(names(&[(DEAD_LETTER_EXCHANGE, text("own"))]), both("own", "k"));
            let own = [(DEAD_LETTER_EXCHANGE, text("own")), (DEAD_LETTER_ROUTING_KEY, text("own"))];
            assert_eq!(names(&own), both("own", "own"));
        }
        let strategy = |own: &str, theirs: &str| {
            let fields = [(DEAD_LETTER_STRATEGY, text(own))];
            under("quorum", &fields, serde_json::json!({"dead-letter-strategy": theirs})).dead_letter_at_least_once
        };
        assert!(strategy("at-least-once", "at-most-once") && !strategy("at-most-once", "at-least-once"));
        let policys = under("quorum", &[], serde_json::json!({"dead-letter-strategy": "at-least-once"}));
        assert!(policys.dead_letter_at_least_once);
    }

    #[test]
    fn of_two_overflows_the_argument_counts_for_classic_and_the_policy_for_quorum_queues() {
        let overflow = |kind, own: Option<&str>, theirs: &str| {
            let fields: Vec<_> = own.into_iter().map(|own| (OVERFLOW, text(own))).collect();
            under(kind, &fields, serde_json::json!({"overflow": theirs})).overflow
        };
        assert_eq!(overflow("classic", Some("drop-head"), "reject-publish"), Overflow::DropHead);
        assert_eq!(overflow("classic", None, "reject-publish-dlx"), Overflow::RejectPublishDlx);
        assert_eq!(overflow("quorum", Some("drop-head"), "reject-publish"), Overflow::RejectPublish);
        assert_eq!(overflow("quorum", Some("reject-publish"), "drop-head"), Overflow::DropHead);
        assert_eq!(overflow("quorum", Some("reject-publish"), "reject-publish-dlx"), Overflow::DropHead);
        let own = under("quorum", &[(OVERFLOW, text("reject-publish"))], serde_json::json!({"expires": 1}));
        assert_eq!(own.overflow, Overflow::RejectPublish);
    }

    #[test]
    fn a_negative_delivery_limit_yields_to_any() {
        let limit = |own: Value, policy: i64| {
            let fields = [("x-delivery-limit", own)];
            under("quorum", &fields, serde_json::json!({"delivery-limit": policy})).delivery_limit
        };
        assert_eq!((limit(int(3), 5), limit(int(5), 3)), (Some(3), Some(3)));
        assert_eq!((limit(int(-1), 5), limit(int(5), -1)), (Some(5), Some(5)));
        assert_eq!(limit(int(-1), -2), Some(-1));
        assert_eq!(limit(text("none"), 4), Some(4));
        assert_eq!(under("quorum", &[], serde_json::json!({"delivery-limit": -1})).delivery_limit, Some(-1));
    }

    #[test]
    fn a_policy_may_delay_retries_and_lift_a_delay() {
        let retry = |kind: &str, min, max, definition| {
            let fields = [
                ("x-delayed-retry-type", text(kind)),
                ("x-delayed-retry-min", int(min)),
                ("x-delayed-retry-max", int(max)),
            ];
            under("quorum", &fields, definition).delayed_retry
        };
        let of = |of, min_ms, max_ms| Some(DelayedRetry { of, min_ms, max_ms });
        let policy =
            || serde_json::json!({"delayed-retry-type": "failed", "delayed-retry-min": 10, "delayed-retry-max": 20});
        assert_eq!(under("quorum", &[], policy()).delayed_retry, of(Retried::Failed, 10, 20));
        assert_eq!(retry("all", 5, 50, policy()), of(Retried::Failed, 5, 20));
        assert_eq!(retry("all", 0, 50, policy()), None);
        assert_eq!(retry("all", 5, -1, policy()), of(Retried::Failed, 5, 5));
        assert_eq!(retry("all", 5, 50, serde_json::json!({"delayed-retry-type": "disabled"})), None);
        // Classic queues have the policy and know nothing of it.
        let classic = under("classic", &[], serde_json::json!({"delayed-retry-min": 5, "consumer-timeout": 5}));
        assert_eq!((classic.delayed_retry, classic.consumer_timeout_ms), (None, None));
        assert!(classic.applied.policy.is_some());
    }

    #[test]
    fn misspelt_arguments_are_recognised() {
        let keys = ["x-mesage-ttl", "x-max-lenght", "message_ttl", "x-deadletter-exchange", "X-Expires", "max-age"];
        let fields: Vec<_> = keys.into_iter().map(|key| (key, int(1))).collect();
        let mut found = misspelt(&table(&fields));
        found.sort();
        let expected = [
            ("X-Expires", "x-expires"),
            ("max-age", MAX_AGE),
            ("message_ttl", "x-message-ttl"),
            ("x-deadletter-exchange", DEAD_LETTER_EXCHANGE),
            ("x-max-lenght", "x-max-length"),
            ("x-mesage-ttl", "x-message-ttl"),
        ];
        assert_eq!(found, expected.map(|(key, likely)| (key.to_owned(), likely)));
        let own = table(&[("x-message-ttl", int(1)), ("x-name-prefix", text("p")), ("owner", text("me"))]);
        assert_eq!(misspelt(&own), []);
    }
}
