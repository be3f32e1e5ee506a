//! Why the house says no, in its own words. Each door translates once: `channel/` and `connection/` into a reply code,
//! `http/` into a status.

use crate::amqp::ReplyCode;

/// A refused operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// What RabbitMQ writes behind the name of the reply code.
    pub text: String,
    /// What is said behind it to those who read a text and not a field of a document; mostly nothing.
    pub more: String,
}

/// The kinds of refusals, by what a caller does about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The user may not, or nobody may.
    AccessRefused,
    /// There is no such exchange or queue.
    NotFound,
    /// An exclusive queue of another connection.
    Locked,
    /// Arguments that are wrong or do not fit what is there.
    Precondition,
    /// Against a rule that ends the connection.
    NotAllowed,
    /// RabbitMQ does not do this either.
    NotImplemented,
    /// A method that only servers send.
    Unexpected,
    /// A transaction's queue is gone.
    Resource,
    /// The broker can't, though it should: a failed disk, say.
    Internal,
}

impl Refusal {
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into(), more: String::new() }
    }

    /// Both texts.
    pub fn whole_text(&self) -> String {
        format!("{}{}", self.text, self.more)
    }

    pub fn access(text: impl Into<String>) -> Self {
        Self::new(Reason::AccessRefused, text)
    }

    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(Reason::NotFound, text)
    }

    pub fn precondition(text: impl Into<String>) -> Self {
        Self::new(Reason::Precondition, text)
    }

    pub fn not_allowed(text: impl Into<String>) -> Self {
        Self::new(Reason::NotAllowed, text)
    }

    pub fn not_implemented(text: impl Into<String>) -> Self {
        Self::new(Reason::NotImplemented, text)
    }

    pub fn internal(text: impl Into<String>) -> Self {
        Self::new(Reason::Internal, text)
    }

    /// The reply code of the AMQP doors.
    pub fn reply_code(&self) -> ReplyCode {
        match self.reason {
            Reason::AccessRefused => ReplyCode::AccessRefused,
            Reason::NotFound => ReplyCode::NotFound,
            Reason::Locked => ReplyCode::ResourceLocked,
            Reason::Precondition => ReplyCode::PreconditionFailed,
            Reason::NotAllowed => ReplyCode::NotAllowed,
            Reason::NotImplemented => ReplyCode::NotImplemented,
            Reason::Resource => ReplyCode::ResourceError,
            Reason::Unexpected => ReplyCode::CommandInvalid,
            Reason::Internal => ReplyCode::InternalError,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}
