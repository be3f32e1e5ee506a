//! Rows of column families, and where they rest: in RocksDB, or, in simulations, on a disk that fails when it is told to.

use super::Failure;
#[cfg(test)]
use super::simulated::{self, SimulatedDisk};
use rocksdb::{ColumnFamily, DB, DBPinnableSlice, Direction, IteratorMode, ReadOptions, WriteBatch, WriteOptions};
#[cfg(test)]
use std::sync::Arc;

/// A column family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Messages,
    Marks,
    Spill,
    Definitions,
    Meta,
}

impl Family {
    pub const ALL: [Self; 5] = [Self::Messages, Self::Marks, Self::Spill, Self::Definitions, Self::Meta];

    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Marks => "marks",
            Self::Spill => "spill",
            Self::Definitions => "definitions",
            Self::Meta => "meta",
        }
    }
}

/// A key and its value.
pub type Row = (Box<[u8]>, Box<[u8]>);

#[derive(Debug)]
pub enum Rows {
    Rocks(DB),
    #[cfg(test)]
    Simulated(Arc<SimulatedDisk>),
}

/// What is to be written: all of it or none.
pub enum Writes<'a> {
    Rocks(&'a DB, WriteBatch),
    #[cfg(test)]
    Simulated(Vec<simulated::Write>),
}

/// A value, for as long as it is looked at.
pub enum Value<'a> {
    Pinned(DBPinnableSlice<'a>),
    #[cfg(test)]
    Copied(Vec<u8>),
}

impl std::ops::Deref for Value<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Pinned(octets) => octets,
            #[cfg(test)]
            Self::Copied(octets) => octets,
        }
    }
}

fn handle(db: &DB, family: Family) -> &ColumnFamily {
    db.cf_handle(family.name()).expect("opened with all column families")
}

/// How rows are read that are needed once: they don't drive others out of the cache.
fn uncached() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options
}

impl Rows {
    pub fn writes(&self) -> Writes<'_> {
        match self {
            Self::Rocks(db) => Writes::Rocks(db, WriteBatch::default()),
            #[cfg(test)]
            Self::Simulated(_) => Writes::Simulated(Vec::new()),
        }
    }

    /// `synced`: it is on disk when this returns. Once this has failed, nothing is written any more.
    pub fn write(&self, writes: Writes<'_>, synced: bool) -> Result<(), Failure> {
        match writes {
            Writes::Rocks(db, batch) => {
                let mut options = WriteOptions::default();
                options.set_sync(synced);
                Ok(db.write_opt(batch, &options)?)
            }
            #[cfg(test)]
            Writes::Simulated(writes) => self.simulated().write(writes, synced),
        }
    }

    /// Writes what need not survive the process.
    pub fn write_unlogged(&self, writes: Writes<'_>) -> Result<(), Failure> {
        match writes {
            Writes::Rocks(db, batch) => {
                let mut options = WriteOptions::default();
                options.disable_wal(true);
                Ok(db.write_opt(batch, &options)?)
            }
            #[cfg(test)]
            Writes::Simulated(writes) => self.simulated().write_unlogged(&writes),
        }
    }

    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Value<'_>>, Failure> {
        match self {
            Self::Rocks(db) => Ok(db.get_pinned_cf_opt(handle(db, family), key, &uncached())?.map(Value::Pinned)),
            #[cfg(test)]
            Self::Simulated(disk) => Ok(disk.get(family, key).map(Value::Copied)),
        }
    }

    /// The last row up to a key, that key included.
    pub fn up_to(&self, family: Family, key: &[u8]) -> Result<Option<Row>, Failure> {
        match self {
            Self::Rocks(db) => {
                let mode = IteratorMode::From(key, Direction::Reverse);
                Ok(db.iterator_cf_opt(handle(db, family), uncached(), mode).next().transpose()?)
            }
            #[cfg(test)]
            Self::Simulated(disk) => Ok(disk.up_to(family, key)),
        }
    }

    /// The rows from a key on, in order, up to another, which is not included.
    pub fn from<'a>(
        &'a self,
        family: Family,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Row, Failure>> + 'a> {
        match self {
            Self::Rocks(db) => {
                let mut options = uncached();
                if let Some(end) = end {
                    options.set_iterate_upper_bound(end);
                }
                let rows =
                    db.iterator_cf_opt(handle(db, family), options, IteratorMode::From(start, Direction::Forward));
                Box::new(rows.map(|row| Ok(row?)))
            }
            #[cfg(test)]
            Self::Simulated(disk) => Box::new(disk.from(family, start, end).into_iter().map(Ok)),
        }
    }

    /// Gives files back that hold nothing but rows of a range, its end included.
    pub fn give_back(&self, family: Family, start: &[u8], last: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Rocks(db) => Ok(db.delete_file_in_range_cf(handle(db, family), start, last)?),
            // Where a file ends is RocksDB's business: here each row is one.
            #[cfg(test)]
            Self::Simulated(disk) => disk.give_back(family, start, last),
        }
    }

    /// Octets in memory: what was written and is not in files yet, and what is known of files.
    pub fn memory_bytes(&self) -> u64 {
        match self {
            Self::Rocks(db) => {
                let of_family = |family: Family| -> u64 {
                    let number = |property: &str| db.property_int_value_cf(handle(db, family), property);
                    ["rocksdb.cur-size-all-mem-tables", "rocksdb.estimate-table-readers-mem"]
                        .into_iter()
                        .filter_map(|property| number(property).ok().flatten())
                        .sum()
                };
                Family::ALL.into_iter().map(of_family).sum()
            }
            #[cfg(test)]
            Self::Simulated(_) => 0,
        }
    }

    #[cfg(test)]
    fn simulated(&self) -> &SimulatedDisk {
        match self {
            Self::Rocks(_) => unreachable!("writes are made by the rows that they are for"),
            Self::Simulated(disk) => disk,
        }
    }
}

impl Writes<'_> {
    pub fn put(&mut self, family: Family, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        match self {
            Self::Rocks(db, batch) => batch.put_cf(handle(db, family), key, value),
            #[cfg(test)]
            Self::Simulated(writes) => {
                writes.push(simulated::Write::Put(family, key.as_ref().into(), value.as_ref().into()));
            }
        }
    }

    pub fn delete(&mut self, family: Family, key: impl AsRef<[u8]>) {
        match self {
            Self::Rocks(db, batch) => batch.delete_cf(handle(db, family), key),
            #[cfg(test)]
            Self::Simulated(writes) => writes.push(simulated::Write::Delete(family, key.as_ref().into())),
        }
    }

    /// The end is not included.
    pub fn delete_range<K: AsRef<[u8]>>(&mut self, family: Family, start: K, end: K) {
        match self {
            Self::Rocks(db, batch) => batch.delete_range_cf(handle(db, family), start, end),
            #[cfg(test)]
            Self::Simulated(writes) => {
                writes.push(simulated::Write::DeleteRange(family, start.as_ref().into(), end.as_ref().into()));
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        match self {
            Self::Rocks(_, batch) => batch.is_empty(),
            #[cfg(test)]
            Self::Simulated(writes) => writes.is_empty(),
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Rocks(_, batch) => batch.size_in_bytes(),
            #[cfg(test)]
            Self::Simulated(writes) => writes.iter().map(simulated::Write::bytes).sum(),
        }
    }
}
