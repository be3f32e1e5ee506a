use crate::amqp::Table;
use crate::refusal::Refusal;
use std::sync::Arc;
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub single_active_consumer: bool,
    pub dead_letter_exchange: Option<Arc<str>>,
}
pub struct Declared<'a> {
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub arguments: &'a Table,
}
impl Settings {
    pub fn parse(_r: &str, _d: &Declared) -> Result<Settings, Refusal> {
        Ok(Self::default())
    }
}
pub fn equivalent(_r: &str, _a: &Declared, _b: &Declared) -> Result<(), Refusal> {
    Ok(())
}
pub fn misspelt(_a: &Table) -> Vec<(String, &'static str)> {
    Vec::new()
}
