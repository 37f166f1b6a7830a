//! Rows: how each record is stored, and the few statements that all of them share.
//!
//! **Invariant:** each row carries a sum over its table and all its columns, made when it is written
//! and compared whenever it is read. SQLite finds a page that makes no sense, but not a letter that
//! has become another one.

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row as SqlRow, params_from_iter};

use super::error::Fault;
use super::record::{Identity, Instance, Intent, Process, Slot};

/// A record that is one row of one table.
pub(super) trait Row: Sized {
    /// The table.
    const TABLE: &'static str;
    /// Its columns but the sum, those of the key first.
    const COLUMNS: &'static [&'static str];
    /// How many columns are the key.
    const KEYS: usize;

    /// The values, in the order of the columns.
    fn values(&self) -> Vec<Value>;

    /// The record. `None` if the values are none of its kind.
    fn read(fields: &mut Fields) -> Option<Self>;
}

/// Writes a row, in the place of one that has the same key.
pub(super) fn put<R: Row>(connection: &Connection, row: &R) -> rusqlite::Result<()> {
    let mut values = row.values();
    values.push(Value::Integer(sum::<R>(&values)));
    let columns = R::COLUMNS.join(", ");
    let places = vec!["?"; values.len()].join(", ");
    let sql = format!(
        "INSERT OR REPLACE INTO {} ({columns}, sum) VALUES ({places})",
        R::TABLE
    );
    let mut statement = connection.prepare_cached(&sql)?;
    statement.execute(params_from_iter(values)).map(drop)
}

/// Removes the row that has this key, if there is one.
pub(super) fn remove<R: Row>(connection: &Connection, key: &[Value]) -> rusqlite::Result<()> {
    let sql = format!("DELETE FROM {}{}", R::TABLE, keyed::<R>());
    let mut statement = connection.prepare_cached(&sql)?;
    statement.execute(params_from_iter(key)).map(drop)
}

/// The row that has this key.
pub(super) fn one<R: Row>(connection: &Connection, key: &[Value]) -> Result<Option<R>, Fault> {
    let sql = format!("{}{}", select::<R>(), keyed::<R>());
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(key))?;
    rows.next()?.map(read).transpose()
}

/// All rows, in the order of their keys. SQLite reads them as they stand, and trusts that they are in order: a
/// page that stands in another's place is found by this.
pub(super) fn all<R: Row>(connection: &Connection) -> Result<Vec<R>, Fault> {
    let keys = R::COLUMNS[..R::KEYS].join(", ");
    let mut statement = connection.prepare(&format!("{} ORDER BY {keys}", select::<R>()))?;
    let mut rows = statement.query([])?;
    let mut all: Vec<R> = Vec::new();
    let mut last = None;
    while let Some(row) = rows.next()? {
        let row: R = read(row)?;
        let key = key(&row);
        if last.is_some_and(|last| last >= key) {
            let what = format!("the rows of the table {} are not in order", R::TABLE);
            return Err(Fault::Damaged(what));
        }
        last = Some(key);
        all.push(row);
    }
    Ok(all)
}

/// A part of a key, in SQLite's order: numbers by their value, texts by their bytes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(i64),
    Text(String),
}

fn key<R: Row>(row: &R) -> Vec<Part> {
    let values = row.values().into_iter().take(R::KEYS);
    let part = |value| match value {
        Value::Integer(number) => Some(Part::Number(number)),
        Value::Text(text) => Some(Part::Text(text)),
        Value::Null | Value::Real(_) | Value::Blob(_) => None,
    };
    values.filter_map(part).collect()
}

fn select<R: Row>() -> String {
    format!("SELECT {}, sum FROM {}", R::COLUMNS.join(", "), R::TABLE)
}

fn keyed<R: Row>() -> String {
    let keys = R::COLUMNS[..R::KEYS].iter();
    let keys: Vec<String> = keys.map(|column| format!("{column} = ?")).collect();
    format!(" WHERE {}", keys.join(" AND "))
}

fn read<R: Row>(row: &SqlRow<'_>) -> Result<R, Fault> {
    let damaged = || Fault::Damaged(format!("a row of the table {} is damaged", R::TABLE));
    let mut values = Vec::with_capacity(R::COLUMNS.len());
    for column in 0..R::COLUMNS.len() {
        let value = Value::try_from(row.get_ref(column)?);
        values.push(value.map_err(|_| damaged())?);
    }
    if row.get_ref(R::COLUMNS.len())? != ValueRef::Integer(sum::<R>(&values)) {
        return Err(damaged());
    }
    let mut fields = Fields(values.into_iter());
    R::read(&mut fields).ok_or_else(damaged)
}

/// The sum over the table's name and the values, each with its type and length.
fn sum<R: Row>(values: &[Value]) -> i64 {
    let mut bytes = R::TABLE.as_bytes().to_vec();
    let mut add = |kind: u8, value: &[u8]| {
        bytes.push(kind);
        bytes.extend(value.len().to_le_bytes());
        bytes.extend(value);
    };
    for value in values {
        match value {
            Value::Null => add(0, &[]),
            Value::Integer(number) => add(1, &number.to_le_bytes()),
            Value::Real(number) => add(2, &number.to_le_bytes()),
            Value::Text(text) => add(3, text.as_bytes()),
            Value::Blob(bytes) => add(4, bytes),
        }
    }
    fnv(&bytes).cast_signed()
}

/// FNV-1a with 64 bits. It finds accidents, not forgers. The two numbers are those of its authors:
/// <http://www.isthe.com/chongo/tech/comp/fnv/>.
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The values of a row, taken one after the other.
pub(super) struct Fields(std::vec::IntoIter<Value>);

impl Fields {
    fn text(&mut self) -> Option<String> {
        self.text_or_null()?
    }

    fn text_or_null(&mut self) -> Option<Option<String>> {
        match self.0.next()? {
            Value::Text(text) => Some(Some(text)),
            Value::Null => Some(None),
            _ => None,
        }
    }

    fn number<N: TryFrom<u64>>(&mut self) -> Option<N> {
        self.number_or_null()?
    }

    fn number_or_null<N: TryFrom<u64>>(&mut self) -> Option<Option<N>> {
        match self.0.next()? {
            Value::Integer(number) => N::try_from(number.cast_unsigned()).ok().map(Some),
            Value::Null => Some(None),
            _ => None,
        }
    }

    fn identity_or_null(&mut self) -> Option<Option<Identity>> {
        let (boot, pid_namespace) = (self.text_or_null()?, self.number_or_null()?);
        match (
            boot,
            pid_namespace,
            self.number_or_null()?,
            self.number_or_null()?,
        ) {
            (Some(boot), Some(pid_namespace), Some(pid), Some(start)) => Some(Some(Identity {
                boot,
                pid_namespace,
                pid,
                start,
            })),
            (None, None, None, None) => Some(None),
            _ => None,
        }
    }
}

/// A number as SQLite has them: those from 2^63 on are negative there.
pub(super) fn number(number: impl Into<u64>) -> Value {
    Value::Integer(number.into().cast_signed())
}

fn number_or_null(value: Option<impl Into<u64>>) -> Value {
    value.map_or(Value::Null, number)
}

pub(super) fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn text_or_null(value: Option<&str>) -> Value {
    value.map_or(Value::Null, text)
}

fn identity(identity: Option<&Identity>) -> [Value; 4] {
    [
        text_or_null(identity.map(|known| known.boot.as_str())),
        number_or_null(identity.map(|known| known.pid_namespace)),
        number_or_null(identity.map(|known| known.pid)),
        number_or_null(identity.map(|known| known.start)),
    ]
}

impl Intent {
    fn word(self) -> &'static str {
        match self {
            Intent::Up => "up",
            Intent::Down => "down",
            Intent::Scrub => "scrub",
        }
    }

    fn of(word: &str) -> Option<Intent> {
        let all = [Intent::Up, Intent::Down, Intent::Scrub];
        all.into_iter().find(|intent| intent.word() == word)
    }
}

/// A service without the texts of its definitions.
#[derive(Debug, Clone)]
pub(super) struct ServiceRow {
    pub(super) path: String,
    pub(super) id: u64,
    pub(super) intent: Intent,
    /// The generation of the present definition.
    pub(super) generation: u64,
    pub(super) state: String,
}

impl Row for ServiceRow {
    const TABLE: &'static str = "services";
    const COLUMNS: &'static [&'static str] = &["path", "id", "intent", "generation", "state"];
    const KEYS: usize = 1;

    fn values(&self) -> Vec<Value> {
        vec![
            text(&self.path),
            number(self.id),
            text(self.intent.word()),
            number(self.generation),
            text(&self.state),
        ]
    }

    fn read(fields: &mut Fields) -> Option<ServiceRow> {
        Some(ServiceRow {
            path: fields.text()?,
            id: fields.number()?,
            intent: Intent::of(&fields.text()?)?,
            generation: fields.number()?,
            state: fields.text()?,
        })
    }
}

/// The text of a definition.
#[derive(Debug)]
pub(super) struct DefinitionRow {
    /// The path of its service.
    pub(super) path: String,
    pub(super) generation: u64,
    pub(super) text: String,
    pub(super) looked_up: String,
}

impl Row for DefinitionRow {
    const TABLE: &'static str = "definitions";
    const COLUMNS: &'static [&'static str] = &["path", "generation", "text", "looked_up"];
    const KEYS: usize = 2;

    fn values(&self) -> Vec<Value> {
        vec![
            text(&self.path),
            number(self.generation),
            text(&self.text),
            text(&self.looked_up),
        ]
    }

    fn read(fields: &mut Fields) -> Option<DefinitionRow> {
        Some(DefinitionRow {
            path: fields.text()?,
            generation: fields.number()?,
            text: fields.text()?,
            looked_up: fields.text()?,
        })
    }
}

impl Row for Slot {
    const TABLE: &'static str = "slots";
    const COLUMNS: &'static [&'static str] = &["service", "slot", "state"];
    const KEYS: usize = 2;

    fn values(&self) -> Vec<Value> {
        vec![number(self.service), number(self.slot), text(&self.state)]
    }

    fn read(fields: &mut Fields) -> Option<Slot> {
        Some(Slot {
            service: fields.number()?,
            slot: fields.number()?,
            state: fields.text()?,
        })
    }
}

impl Row for Instance {
    const TABLE: &'static str = "instances";
    const COLUMNS: &'static [&'static str] = &[
        "service",
        "slot",
        "number",
        "mark",
        "boot",
        "pid_namespace",
        "pid",
        "start",
        "cgroup",
        "generation",
        "state",
    ];
    const KEYS: usize = 3;

    fn values(&self) -> Vec<Value> {
        let mut values = vec![
            number(self.service),
            number(self.slot),
            number(self.number),
            text(&self.mark),
        ];
        values.extend(identity(self.identity.as_ref()));
        values.extend([
            text_or_null(self.cgroup.as_deref()),
            number(self.generation),
            text(&self.state),
        ]);
        values
    }

    fn read(fields: &mut Fields) -> Option<Instance> {
        Some(Instance {
            service: fields.number()?,
            slot: fields.number()?,
            number: fields.number()?,
            mark: fields.text()?,
            identity: fields.identity_or_null()?,
            cgroup: fields.text_or_null()?,
            generation: fields.number()?,
            state: fields.text()?,
        })
    }
}

impl Row for Process {
    const TABLE: &'static str = "processes";
    const COLUMNS: &'static [&'static str] =
        &["path", "mark", "boot", "pid_namespace", "pid", "start"];
    const KEYS: usize = 1;

    fn values(&self) -> Vec<Value> {
        let mut values = vec![text(&self.path), text(&self.mark)];
        values.extend(identity(self.identity.as_ref()));
        values
    }

    fn read(fields: &mut Fields) -> Option<Process> {
        Some(Process {
            path: fields.text()?,
            mark: fields.text()?,
            identity: fields.identity_or_null()?,
        })
    }
}
