//! How RocksDB is set up. The figures behind the choices stand in docs/architecture.md.

use super::rows::Family;
use super::{FORMAT, OpenError, Options};
use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, IteratorMode};
use std::path::Path;

/// Keeps index and filter blocks; the messages themselves are read once and not cached.
const CACHE_BYTES: usize = 4 << 20;
const OPEN_FILES_MAX: i32 = 256;
const WAL_BYTES_MAX: u64 = 32 << 20;
/// A file that says what is damaged in its folder.
const DAMAGED: &str = "damaged";

pub fn open(options: &Options) -> Result<DB, OpenError> {
    let folder = &options.folder;
    let io = |text: String| OpenError::Io { folder: folder.clone(), text };
    std::fs::create_dir_all(folder).map_err(|error| io(error.to_string()))?;
    restrict(folder).map_err(io)?;
    let new = !super::exists(folder);
    let damage = std::fs::read_to_string(folder.join(DAMAGED)).ok();
    let mut general = rocksdb::Options::default();
    general.create_if_missing(true);
    general.create_missing_column_families(true);
    general.set_max_background_jobs(2);
    general.set_max_open_files(OPEN_FILES_MAX);
    general.set_max_total_wal_size(WAL_BYTES_MAX);
    general.set_allow_concurrent_memtable_write(false);
    general.set_enable_pipelined_write(false);
    // A torn end is what a crash leaves; a damaged middle would lose confirmed messages and is refused.
    general.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    general.set_recycle_log_file_num(0);
    general.set_track_and_verify_wals_in_manifest(true);
    general.set_stats_dump_period_sec(0);
    general.set_stats_persist_period_sec(0);
    general.set_keep_log_file_num(2);
    let cache = Cache::new_lru_cache(CACHE_BYTES);
    let family = |write_buffer_bytes: usize, buffers: i32| {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&cache);
        table.set_cache_index_and_filter_blocks(true);
        table.set_block_size(16 << 10);
        table.set_bloom_filter(10.0, false);
        table.set_format_version(6);
        let mut family = rocksdb::Options::default();
        family.set_write_buffer_size(write_buffer_bytes);
        family.set_max_write_buffer_number(buffers);
        family.set_compression_type(DBCompressionType::None);
        family.set_target_file_size_base(64 << 20);
        family.set_max_bytes_for_level_base(256 << 20);
        family.set_block_based_table_factory(&table);
        // To merge files means to read all of them, and what is damaged would end that, and all writing with it.
        family.set_disable_auto_compactions(damage.is_some());
        family
    };
    let small = options.write_buffer_bytes.min(1 << 20);
    let mut packed = family(small, 2);
    packed.set_compression_type(DBCompressionType::Lz4);
    let families = [
        ColumnFamilyDescriptor::new("default", family(small, 2)),
        ColumnFamilyDescriptor::new(Family::Messages.name(), family(options.write_buffer_bytes, 3)),
        ColumnFamilyDescriptor::new(Family::Marks.name(), family(small, 2)),
        ColumnFamilyDescriptor::new(Family::Spill.name(), family(options.write_buffer_bytes, 2)),
        ColumnFamilyDescriptor::new(Family::Definitions.name(), packed),
        ColumnFamilyDescriptor::new(Family::Meta.name(), family(small, 2)),
    ];
    let db = DB::open_cf_descriptors(&general, folder, families).map_err(|error| explain(folder, error))?;
    if let Some(damage) = &damage {
        tracing::error!(
            damage,
            "the data folder {0} is damaged: its files are left as they are, and what can be read is served; empty the queues \
             and begin with a new folder, or, if it was not the disk's fault, delete {0}/{DAMAGED} and start again",
            folder.display()
        );
    }
    check_format(&db, folder, new)?;
    // What was spilled by the last run is of no use to this one.
    let (start, end) = ([0; super::keys::ROW_BYTES], [0xFF; super::keys::ROW_BYTES]);
    let cf = db.cf_handle(Family::Spill.name()).ok_or_else(|| io("the column family spill is missing".into()))?;
    let emptied = db.delete_file_in_range_cf(cf, start, end).and_then(|()| {
        let mut batch = rocksdb::WriteBatch::default();
        batch.delete_range_cf(cf, start, end);
        db.write(batch)
    });
    emptied.map_err(|error| explain(folder, error))?;
    Ok(db)
}

/// Leaves word for later starts that something in the folder is damaged.
pub fn note_damage(folder: &Path, text: &str) {
    if let Err(error) = std::fs::write(folder.join(DAMAGED), text) {
        tracing::error!("can't leave word of the damage in {}: {error}", folder.display());
    }
}

fn check_format(db: &DB, folder: &Path, new: bool) -> Result<(), OpenError> {
    let io = |text: String| OpenError::Io { folder: folder.to_owned(), text };
    let meta = db.cf_handle(Family::Meta.name()).ok_or_else(|| io("the column family meta is missing".into()))?;
    match db.get_cf(meta, "format").map_err(|error| explain(folder, error))? {
        Some(found) if found == FORMAT.as_bytes() => Ok(()),
        // The start that made it may have ended before it could write anything.
        None if new || is_empty(db).map_err(|error| explain(folder, error))? => {
            let mut synced = rocksdb::WriteOptions::default();
            synced.set_sync(true);
            db.put_cf_opt(meta, "format", FORMAT, &synced).map_err(|error| explain(folder, error))
        }
        found => Err(OpenError::Version {
            found: found.map_or_else(|| "none".into(), |found| String::from_utf8_lossy(&found).into_owned()),
            folder: folder.to_owned(),
        }),
    }
}

/// Whether nothing was ever written.
fn is_empty(db: &DB) -> Result<bool, rocksdb::Error> {
    for name in Family::ALL.map(Family::name).into_iter().chain(["default"]) {
        let first = db.cf_handle(name).and_then(|family| db.iterator_cf(family, IteratorMode::Start).next());
        if first.transpose()?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// RocksDB's error as one of ours.
fn explain(folder: &Path, error: rocksdb::Error) -> OpenError {
    let folder = folder.to_owned();
    let text = error.to_string();
    match error.kind() {
        rocksdb::ErrorKind::Corruption => OpenError::Damaged { folder, text },
        // It can't be locked; that its file can't be opened is another matter.
        _ if text.contains("While lock file") || text.contains("lock hold by current process") => {
            OpenError::Locked(folder)
        }
        _ => OpenError::Io { folder, text },
    }
}

/// Messages are nobody else's business: takes everybody's rights to the folder but its owner's away. Where that can't be
/// done the folder's group may stay, as container platforms let a process in by its group; all others may not.
fn restrict(folder: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(folder).map_err(|error| error.to_string())?.permissions().mode() & 0o7777;
    if mode & 0o1002 == 0o1002 {
        // As /tmp: taking it from everybody would break the machine.
        return Err(format!("it is shared by everybody (mode {mode:04o}); name a folder below it"));
    }
    let Err(error) = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)) else {
        if mode & 0o077 != 0 {
            tracing::info!("data folder {}: mode {mode:04o} became 0700", folder.display());
        }
        return Ok(());
    };
    if mode & 0o007 != 0 {
        return Err(format!(
            "everybody may look into it (mode {mode:04o}), and that can't be changed: {error}; name a folder below it"
        ));
    }
    tracing::warn!("data folder {}: mode {mode:04o} can't become 0700: {error}", folder.display());
    Ok(())
}
