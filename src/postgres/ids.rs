//! Sequences that give ids in a node's range. Applied rows never move a sequence: they carry their ids.

use std::time::Duration;

use super::tables::{literal, quoted};
use super::{Endpoint, PgError};
use crate::log::CapturesTable;
use crate::model::{TableName, limits};
use crate::view::{Ids, StrayIds};

/// Sequences that columns of numbers draw from: owned ones (serial, identity), and those that a default names.
const SEQUENCES: &str = "SELECT DISTINCT tn.nspname, t.relname, a.attname, sn.nspname, s.relname, \
        p.seqmin, p.seqmax, p.seqincrement, p.seqcycle, \
        CASE WHEN has_sequence_privilege(s.oid, 'SELECT, USAGE') THEN pg_sequence_last_value(s.oid) END, \
        pg_has_role(s.relowner, 'USAGE') \
     FROM pg_class s JOIN pg_namespace sn ON sn.oid = s.relnamespace JOIN pg_sequence p ON p.seqrelid = s.oid \
     JOIN (SELECT objid AS seq, refobjid AS tbl, refobjsubid AS col FROM pg_depend \
             WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i') AND refobjsubid > 0 \
           UNION SELECT d.refobjid, ad.adrelid, ad.adnum FROM pg_depend d JOIN pg_attrdef ad ON ad.oid = d.objid \
             WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass) u ON u.seq = s.oid \
     JOIN pg_class t ON t.oid = u.tbl JOIN pg_namespace tn ON tn.oid = t.relnamespace \
     JOIN pg_attribute a ON a.attrelid = u.tbl AND a.attnum = u.col \
     WHERE s.relkind = 'S' AND t.relkind IN ('r', 'p') AND NOT t.relispartition \
       AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype) ORDER BY 1, 2, 3";

/// Looks at every sequence that a captured table draws from, and gives those that do not keep to the range, each with the
/// statement that has it do so: it goes on after the greatest id of the range that the table has.
///
/// # Errors
/// The server cannot be reached or asked.
pub async fn stray_ids(
    endpoint: &Endpoint,
    range: Ids,
    captures: &CapturesTable,
    limit: Duration,
) -> Result<Vec<StrayIds>, PgError> {
    let session = endpoint.connect(limit).await?;
    let failed = |e| endpoint.failed("looking at sequences", e);
    let rows = session.client.query(SEQUENCES, &[]).await.map_err(failed)?;
    let mut strays = Vec::new();
    for row in rows {
        let (schema, table, column): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let Ok(name) = format!("{schema}.{table}").parse::<TableName>() else { continue };
        if !captures(&name) {
            continue;
        }
        let sequence = format!("{}.{}", quoted(&row.get::<_, String>(3)), quoted(&row.get::<_, String>(4)));
        let (least, greatest, step): (i64, i64, i64) = (row.get(5), row.get(6), row.get(7));
        let (cycles, last, may): (bool, Option<i64>, bool) = (row.get(8), row.get(9), row.get(10));
        let inside = range.contains(least) && range.contains(greatest) && !cycles;
        if inside && last.is_none_or(|last| range.contains(last)) {
            let last = last.filter(|_| step > 0);
            strays.extend(last.and_then(|last| nearly_used_up(name, &sequence, last, (least, greatest), step)));
            continue;
        }
        let ids = format!(
            "SELECT max({0}) FROM {1}.{2} WHERE {0} BETWEEN {3} AND {4}",
            quoted(&column),
            quoted(&schema),
            quoted(&table),
            range.first,
            range.last
        );
        let most: Option<i64> = match session.client.query_one(&format!("SELECT ({ids})::bigint"), &[]).await {
            Ok(row) => row.get(0),
            Err(error) => return Err(failed(error)),
        };
        let given = most.into_iter().chain(last.filter(|last| range.contains(*last))).max();
        let next = given.map_or(Some(range.first), |given| given.checked_add(step.max(1)));
        let what = format!(
            "the sequence {sequence} gives {column} ids from {least} to {greatest}{}",
            if cycles { ", and begins again" } else { "" }
        );
        let stray = match next.filter(|next| range.contains(*next)) {
            _ if step < 1 => StrayIds {
                table: name,
                what: format!("{what}, counting down: no range can be given to it"),
                mend: None,
            },
            None => StrayIds {
                table: name,
                what: format!("{what}; the range is used up: give the node another one"),
                mend: None,
            },
            Some(next) => {
                let owner = if may { "" } else { "; only its owner may change it" };
                let mend = format!(
                    "ALTER SEQUENCE {sequence} MINVALUE {} MAXVALUE {} START {} RESTART {next} NO CYCLE",
                    range.first, range.last, range.first
                );
                StrayIds { table: name, what: what + owner, mend: Some(mend) }
            }
        };
        strays.push(stray);
    }
    Ok(strays)
}

/// A sequence that keeps to the range, and has given nearly all of it.
fn nearly_used_up(table: TableName, sequence: &str, last: i64, ends: (i64, i64), step: i64) -> Option<StrayIds> {
    let (least, greatest) = ends;
    let left = greatest.saturating_sub(last) / step;
    // Of a small range, a tenth.
    let warned = limits::IDS_LEFT_MIN.min(greatest.saturating_sub(least) / step / 10);
    let what = match left {
        0 => format!(
            "the sequence {sequence} has given {last}: the range is used up, and inserts fail; give the node another one"
        ),
        left if left < warned => {
            format!(
                "the sequence {sequence} has given {last}: only {left} ids of the range are left; give the node another one soon"
            )
        }
        _ => return None,
    };
    Some(StrayIds { table, what, mend: None })
}

/// Runs what mends strays; the first that fails ends it.
///
/// # Errors
/// The server cannot be reached, or refuses.
pub async fn mend_ids(endpoint: &Endpoint, strays: &[StrayIds], limit: Duration) -> Result<(), PgError> {
    let session = endpoint.connect(limit).await?;
    for stray in strays {
        let Some(mend) = &stray.mend else { continue };
        let failed = |e| endpoint.failed(format!("giving table {} its ids", literal(stray.table.as_str())), e);
        session.client.batch_execute(mend).await.map_err(failed)?;
    }
    Ok(())
}
