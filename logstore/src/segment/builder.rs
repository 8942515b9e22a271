//! Writes sorted rows as one segment file.
//!
//! Everything that decides a cut is a count of *uncompressed* bytes in the order
//! of keys, and nothing depends on time, threads or the order of a hash map: the
//! same rows give the same blocks on every replica, and the same bytes from the
//! same build with the same settings.
//!
//! The order in the file: shared bodies, rows, postings, groups, inboxes, filters,
//! summary; each table with its index behind it.

use super::{
    block::{self, Compression, Kind, Salt},
    encoding::put_varint,
    files::ReadError,
    filter,
    footer::{self, FilterPlace, Footer, Name, Section, SegmentMeta, Summary},
    inbox::{self, NO_BLOCK, Record},
    postings,
    table::{BLOCK_BYTES, Page},
};
use crate::{
    key::{BodyRef, Key, Shape},
    memtable::Seen,
    storage::File,
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    ops::Range,
};

/// Bodies of several rows that take more than this in all stand once.
const SHARED_BYTES: u64 = 1 << 10;

/// What is written to the file at once.
const WRITE_BYTES: usize = 1 << 20;

/// How segments are written.
#[derive(Clone, Copy, Debug)]
pub struct SegmentOptions {
    /// How blocks are stored; nodes may differ in it. Default: LZ4.
    pub compression: Compression,
    /// Uncompressed bytes of keys, headers and bodies after which a flush begins
    /// another segment: equal on all replicas. Default: 64 MiB.
    pub target_bytes: u64,
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            target_bytes: 64 << 20,
        }
    }
}

/// Why a segment could not be built.
#[derive(Debug)]
pub(crate) enum BuildError {
    Disk(io::Error),
    Read(ReadError),
}

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

pub(crate) type Rows<'a> = [(Key, Seen<'a>)];

/// The head of an inbox's hash chain before these rows, from older segments.
pub(crate) type Heads<'a> = dyn FnMut(u64) -> Result<Option<inbox::Head>, ReadError> + 'a;

/// Cuts the rows of a flush into the parts that become segments.
pub(crate) fn parts(rows: &Rows<'_>, target_bytes: u64) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    let mut bodies = HashSet::new();
    for (index, (key, seen)) in rows.iter().enumerate() {
        bytes += 9 + key.sub().len() as u64 + seen.header().map_or(0, |header| header.len() as u64);
        if let Some(body) = seen.body_ref().filter(|body| bodies.insert(*body)) {
            bytes += u64::from(body.len);
        }
        if bytes >= target_bytes {
            parts.push(start..index + 1);
            (start, bytes) = (index + 1, 0);
            bodies.clear();
        }
    }
    if start < rows.len() {
        parts.push(start..rows.len());
    }
    parts
}

/// Writes the whole segment into an empty file, unsynced. Gives its meta, and the
/// last inbox with the head of its chain if it has one.
///
/// # Panics
/// If there are no rows.
pub(crate) fn build(
    rows: &Rows<'_>,
    name: Name,
    options: &SegmentOptions,
    heads: &mut Heads<'_>,
    file: &dyn File,
) -> Result<(SegmentMeta, Option<(u64, inbox::Head)>), BuildError> {
    let (Some((min, _)), Some((max, _))) = (rows.first(), rows.last()) else {
        unreachable!("a part of a flush has at least one row");
    };
    let mut sink = Sink::new(file, &name, options.compression);
    let (bodies, places) = write_bodies(&mut sink, rows)?;
    let mut inboxes = BTreeMap::new();
    let row_section = write_rows(&mut sink, rows, &places, &mut inboxes, heads)?;
    let (posting_section, mut groups) = write_postings(&mut sink, rows, &mut inboxes)?;
    groups.sort_unstable();
    let mut table = Table::new(Kind::Groups);
    let mut value = Vec::new();
    for (key, count) in &groups {
        value.clear();
        put_varint(&mut value, *count);
        table.add(&mut sink, key, &value, 1)?;
    }
    let group_section = table.finish(&mut sink)?;
    let mut table = Table::new(Kind::Inboxes);
    for (inbox, record) in &inboxes {
        table.add(&mut sink, &inbox.to_be_bytes(), &record.encode(), 1)?;
    }
    let inbox_section = table.finish(&mut sink)?;
    let hashes: Vec<_> = inboxes
        .keys()
        .map(|inbox| filter::hash(&inbox.to_be_bytes()))
        .collect();
    let inbox_filter = write_filter(&mut sink, &hashes)?;
    let key_filter = write_filter(&mut sink, &point_hashes(rows))?;
    let dedup = rows.iter().filter(|(key, _)| key.shape() == Shape::Dedup);
    let summary = Summary {
        rows: row_section,
        postings: posting_section,
        groups: group_section,
        inboxes: inbox_section,
        inbox_filter,
        key_filter,
        bodies,
        min: *min,
        max: *max,
        highest_client_ms: dedup.map(|(key, _)| key.client_ms()).max(),
    };
    sink.block(Kind::Summary, &summary.encode())?;
    let footer = sink.finish(name)?;
    let meta = SegmentMeta {
        name,
        file_bytes: footer.file_bytes,
        rows: summary.rows.weight,
        postings: summary.postings.weight,
        min: summary.min,
        max: summary.max,
        highest_client_ms: summary.highest_client_ms,
        digest: footer.digest,
    };
    let last = inboxes.last_key_value();
    Ok((
        meta,
        last.and_then(|(inbox, record)| Some((*inbox, record.head?))),
    ))
}

/// What is read by its whole key and may be absent stands in the filter of keys.
fn point_hashes(rows: &Rows<'_>) -> Vec<u64> {
    let mut bytes = Vec::new();
    let points = rows
        .iter()
        .filter(|(key, _)| matches!(key.shape(), Shape::State | Shape::Dedup));
    points
        .map(|(key, _)| {
            bytes.clear();
            key.write(&mut bytes);
            filter::hash(&bytes)
        })
        .collect()
}

fn write_filter(sink: &mut Sink<'_>, hashes: &[u64]) -> io::Result<FilterPlace> {
    let (lines, pages) = filter::build(hashes);
    let first = sink.next();
    for page in &pages {
        sink.block(Kind::Filter, page)?;
    }
    Ok(FilterPlace { first, lines })
}

/// Where a shared body stands: which block of bodies, and which in it.
type BodyPlaces = HashMap<BodyRef, (u32, u32)>;

/// Writes the bodies that several rows share, by group and order. Content of a
/// block: bodies · group u64, order u64, end u32 of each · their number u32.
fn write_bodies(
    sink: &mut Sink<'_>,
    rows: &Rows<'_>,
) -> Result<((u32, u32), BodyPlaces), BuildError> {
    let mut counts = HashMap::<BodyRef, (u64, usize)>::new();
    for (index, (_, seen)) in rows.iter().enumerate() {
        if let Some(body) = seen.body_ref() {
            counts.entry(body).or_insert((0, index)).0 += 1;
        }
    }
    let mut shared: Vec<_> = counts
        .into_iter()
        .filter(|(body, (rows, _))| *rows > 1 && rows * u64::from(body.len) > SHARED_BYTES)
        .map(|(body, (_, index))| (body, index))
        .collect();
    shared.sort_unstable_by_key(|(at, _)| (at.group, at.order, at.position, at.offset, at.len));
    let first = sink.next();
    let mut places = BodyPlaces::new();
    let (mut content, mut table) = (Vec::new(), Vec::new());
    for (at, (body, index)) in shared.iter().enumerate() {
        let slot = u32::try_from(table.len() / 20).expect("bodies of one block");
        places.insert(*body, (sink.next() - first, slot));
        content.extend_from_slice(&rows[*index].1.body().expect("it was counted as a body"));
        let end = u32::try_from(content.len()).expect("a block is far below 4 GiB");
        table.extend_from_slice(&body.group.to_le_bytes());
        table.extend_from_slice(&body.order.to_le_bytes());
        table.extend_from_slice(&end.to_le_bytes());
        if content.len() >= BLOCK_BYTES || at + 1 == shared.len() {
            content.append(&mut table);
            content.extend_from_slice(&(slot + 1).to_le_bytes());
            sink.block(Kind::Bodies, &content)?;
            content.clear();
        }
    }
    Ok(((first, sink.next() - first), places))
}

/// The value of a row in the table of rows: what it is, its header, its body.
pub(crate) const DELETED: u8 = 0;
pub(crate) const NO_BODY: u8 = 1;
pub(crate) const INLINE_BODY: u8 = 2;
pub(crate) const SHARED_BODY: u8 = 3;

fn write_rows(
    sink: &mut Sink<'_>,
    rows: &Rows<'_>,
    places: &BodyPlaces,
    inboxes: &mut BTreeMap<u64, Record>,
    heads: &mut Heads<'_>,
) -> Result<Section, BuildError> {
    let mut table = Table::new(Kind::Rows);
    let (mut bytes, mut value) = (Vec::new(), Vec::new());
    for (key, seen) in rows.iter().filter(|(key, _)| key.shape() != Shape::Posting) {
        let block = sink.next();
        let record = inboxes
            .entry(key.inbox)
            .or_insert_with(|| Record::new(block));
        record.rows += 1;
        bytes.clear();
        key.write(&mut bytes);
        value.clear();
        if let Some(header) = seen.header() {
            let place = seen.body_ref().and_then(|body| places.get(&body));
            let inline = if place.is_none() { seen.body() } else { None };
            value.push(match (&place, &inline) {
                (Some(_), _) => SHARED_BODY,
                (None, Some(_)) => INLINE_BODY,
                (None, None) => NO_BODY,
            });
            put_varint(&mut value, header.len() as u64);
            value.extend_from_slice(header);
            if let Some((block, slot)) = place {
                put_varint(&mut value, u64::from(*block));
                put_varint(&mut value, u64::from(*slot));
            }
            value.extend_from_slice(inline.as_deref().unwrap_or_default());
        } else {
            value.push(DELETED);
        }
        if key.shape() == Shape::Append {
            record.span(key.family, key.number(0));
            if key.family == inbox::CHAINED_FAMILY
                && let Some(header) = seen.header()
            {
                if record.head.is_none() {
                    record.head = heads(key.inbox).map_err(BuildError::Read)?;
                }
                let body = seen.body();
                let previous = record.head.unwrap_or_default();
                record.head = Some(inbox::link(&previous, header, body.as_deref()));
            }
        }
        table.add(sink, &bytes, &value, 1)?;
    }
    Ok(table.finish(sink)?)
}

type GroupKeys = Vec<([u8; postings::GROUP_KEY], u64)>;

fn write_postings(
    sink: &mut Sink<'_>,
    rows: &Rows<'_>,
    inboxes: &mut BTreeMap<u64, Record>,
) -> io::Result<(Section, GroupKeys)> {
    let group_of = |key: &Key| (key.inbox, key.family, key.number(0));
    let all: Vec<_> = rows
        .iter()
        .filter(|(key, _)| key.shape() == Shape::Posting)
        .collect();
    let mut table = Table::new(Kind::Postings);
    let mut groups = Vec::new();
    let (mut bytes, mut value) = (Vec::new(), Vec::new());
    for group in all.chunk_by(|(a, _), (b, _)| group_of(a) == group_of(b)) {
        let pairs: Vec<_> = group
            .iter()
            .map(|(key, seen)| (key.number(8), place(seen)))
            .collect();
        for (chunk, keys) in pairs
            .chunks(postings::CHUNK)
            .zip(group.chunks(postings::CHUNK))
        {
            bytes.clear();
            keys[0].0.write(&mut bytes);
            value.clear();
            postings::pack(chunk, &mut value);
            table.add(sink, &bytes, &value, chunk.len() as u64)?;
        }
        let (key, _) = group[group.len() - 1];
        let count = group.len() as u64;
        groups.push((
            postings::group_key(key.inbox, key.family, key.number(8), key.number(0)),
            count,
        ));
        let record = inboxes
            .entry(key.inbox)
            .or_insert_with(|| Record::new(NO_BLOCK));
        record.postings += count;
    }
    Ok((table.finish(sink)?, groups))
}

fn place(seen: &Seen<'_>) -> u64 {
    let header = seen.header().and_then(|header| header.first_chunk::<8>());
    u64::from_be_bytes(*header.expect("the memtable checks the shape of postings"))
}

/// Writes a table: its blocks, then its index.
struct Table {
    kind: Kind,
    page: Page,
    index: Vec<(Vec<u8>, u32, u64)>,
    weight: u64,
    cut_weight: u64,
}

impl Table {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            page: Page::default(),
            index: Vec::new(),
            weight: 0,
            cut_weight: 0,
        }
    }

    fn add(
        &mut self,
        sink: &mut Sink<'_>,
        key: &[u8],
        value: &[u8],
        weight: u64,
    ) -> io::Result<()> {
        self.page.add(key, value);
        self.weight += weight;
        if self.page.is_full() {
            self.cut(sink)
        } else {
            Ok(())
        }
    }

    fn cut(&mut self, sink: &mut Sink<'_>) -> io::Result<()> {
        let number = self.page.finish(|content| sink.block(self.kind, content))?;
        self.index
            .push((self.page.first.clone(), number, self.cut_weight));
        self.cut_weight = self.weight;
        Ok(())
    }

    fn finish(mut self, sink: &mut Sink<'_>) -> io::Result<Section> {
        if !self.page.is_empty() {
            self.cut(sink)?;
        }
        let index = sink.next();
        let mut tops = Vec::new();
        let mut value = Vec::new();
        for (at, (key, number, weight)) in self.index.iter().enumerate() {
            value.clear();
            put_varint(&mut value, u64::from(*number));
            put_varint(&mut value, *weight);
            self.page.add(key, &value);
            if self.page.is_full() || at + 1 == self.index.len() {
                self.page
                    .finish(|content| sink.block(Kind::Index, content))?;
                tops.push(self.page.first.clone());
            }
        }
        let blocks = u32::try_from(self.index.len()).expect("fewer blocks than bytes");
        let first = self.index.first().map_or(index, |(_, number, _)| *number);
        Ok(Section {
            kind: self.kind,
            first,
            blocks,
            index,
            tops,
            weight: self.weight,
        })
    }
}

/// The file as it grows.
struct Sink<'a> {
    file: &'a dyn File,
    salt: Salt,
    compression: Compression,
    buffer: Vec<u8>,
    written: u64,
    places: Vec<u8>,
    blocks: u32,
    digests: blake3::Hasher,
}

impl<'a> Sink<'a> {
    fn new(file: &'a dyn File, name: &Name, compression: Compression) -> Self {
        Self {
            file,
            salt: name.salt(),
            compression,
            buffer: footer::header(name).to_vec(),
            written: 0,
            places: Vec::new(),
            blocks: 0,
            digests: blake3::Hasher::new(),
        }
    }

    /// The number that the next block gets.
    fn next(&self) -> u32 {
        self.blocks
    }

    fn block(&mut self, kind: Kind, content: &[u8]) -> io::Result<u32> {
        let start = self.buffer.len();
        let number = self.blocks;
        let digest = block::seal(
            kind,
            &self.salt,
            number,
            content,
            self.compression,
            &mut self.buffer,
        );
        self.digests.update(&digest);
        let len = u32::try_from(self.buffer.len() - start).expect("bounded by `seal`");
        self.places
            .extend_from_slice(&(self.written + start as u64).to_le_bytes());
        self.places.extend_from_slice(&len.to_le_bytes());
        self.blocks += 1;
        if self.buffer.len() >= WRITE_BYTES {
            self.write_out()?;
        }
        Ok(number)
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self, name: Name) -> io::Result<Footer> {
        let places = self.written + self.buffer.len() as u64;
        self.buffer.extend_from_slice(&self.places);
        let hash = self.digests.finalize();
        let footer = Footer {
            name,
            blocks: self.blocks,
            places,
            places_crc: crc32fast::hash(&self.places),
            file_bytes: places + (self.places.len() + footer::FOOTER_BYTES) as u64,
            digest: *hash
                .as_bytes()
                .first_chunk()
                .expect("32 bytes have a first 16"),
        };
        self.buffer.extend_from_slice(&footer.encode());
        self.write_out()?;
        Ok(footer)
    }
}
