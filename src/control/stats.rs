//! How a daemon's gauges are shown to a person.
//!
//! Source: the design's section on FUSE facts (control channel).
//! Invariants: what is shown is what the JSON says; nothing is computed that a program could not compute from it.

use serde_json::Value;
use std::fmt::Write;

/// The table of `uext4 stats`.
pub fn table(stats: &Value) -> String {
    let mut out = String::new();
    memory(&mut out, &stats["memory"]);
    eviction(&mut out, &stats["eviction"]);
    journal(&mut out, &stats["journal"]);
    for (what, value) in [
        ("inodes in memory", &stats["inodes"]),
        ("known to the kernel", &stats["known"]["inodes"]),
        ("  lookups", &stats["known"]["lookups"]),
        ("  refused", &stats["known"]["refused"]),
        ("  listed without inode", &stats["known"]["unnamed"]),
        ("  prunes sent", &stats["known"]["prunes_sent"]),
        ("  inodes in them", &stats["known"]["inodes_pruned"]),
        ("open files", &stats["known"]["open"]),
        ("requests put aside", &stats["put_aside"]),
        ("pinned blocks", &stats["pinned_blocks"]),
        ("buddies built", &stats["alloc"]["buddies_built"]),
        ("bitmaps read", &stats["alloc"]["bitmaps_read"]),
        (
            "nothing set aside for pins",
            &stats["alloc"]["not_set_aside"],
        ),
    ] {
        line(&mut out, what, value);
    }
    out
}

fn memory(out: &mut String, memory: &Value) {
    let _ = writeln!(out, "{:<28}{:>12}{:>12}", "memory (KiB)", "now", "peak");
    row(out, "cap", &memory["cap"], None);
    row(out, "used", &memory["used"], Some(&memory["peak"]));
    row(out, "promised", &memory["promised"], None);
    for class in memory["classes"].as_array().into_iter().flatten() {
        let name = class["class"].as_str().unwrap_or_default();
        row(
            out,
            &format!("  {name}"),
            &class["current"],
            Some(&class["peak"]),
        );
    }
    let _ = writeln!(out, "{:<28}{:>12}{:>12}", "reserves (KiB)", "left", "low");
    for reserve in memory["reserves"].as_array().into_iter().flatten() {
        let name = reserve["reserve"].as_str().unwrap_or_default();
        row(
            out,
            &format!("  {name}"),
            &reserve["left"],
            Some(&reserve["low"]),
        );
    }
    waits(out, "waits for memory", &memory["waits"]);
    waits(out, "waits in reclaim", &memory["waits_in_reclaim"]);
    waits(out, "waits for the evictor", &memory["throttled"]);
    waits(out, "writers held up", &memory["held_answers"]);
    waits(out, "workers held up by that", &memory["dirty_waits"]);
    row(out, "left to the evictor", &memory["deferred"], None);
    for (what, name) in [
        ("direct reclaims", "direct_reclaims"),
        ("requests refused", "refused"),
        ("overdrafts", "overdrafts"),
    ] {
        line(out, what, &memory["activity"][name]);
    }
}

fn eviction(out: &mut String, eviction: &Value) {
    let text = |name: &str| eviction[name].as_str().unwrap_or_default().to_owned();
    let _ = writeln!(out, "eviction: {} from {}", text("policy"), text("from"));
    for (what, name) in [
        ("  evicted", "evicted"),
        ("    with preallocations", "with_preallocations"),
        ("  dropped on the way", "swept"),
        ("  by requests", "direct"),
        ("  by the evictor", "evictor"),
        ("  as asked", "asked"),
        ("  put back", "put_back"),
        ("  passed over", "skipped"),
        ("  dirty", "dirty"),
        ("  buddies asked for", "buddy_loads"),
        ("  buddies built", "buddy_builds"),
        ("  bitmaps read", "bitmap_reads"),
        ("  allocations in reclaim", "allocations"),
        ("  attempts again", "retries"),
        ("  failures", "failures"),
    ] {
        line(out, what, &eviction[name]);
    }
    row(
        out,
        "  kept by the policy",
        &eviction["private_bytes"],
        None,
    );
    for step in eviction["steps"].as_array().into_iter().flatten() {
        let name = step["step"].as_str().unwrap_or_default();
        waits(out, &format!("  {name}"), &step["times"]);
    }
}

fn journal(out: &mut String, journal: &Value) {
    for (what, name) in [
        ("commits", "commits"),
        ("  put off for others", "gatherings"),
        ("  blocks", "blocks_logged"),
        ("checkpoints", "checkpoints"),
        ("  blocks", "blocks_home"),
    ] {
        line(out, what, &journal[name]);
    }
    for (what, name) in [
        ("  commit", "commit_times"),
        ("  checkpoint", "checkpoint_times"),
        ("  held up: closing", "closing"),
        ("  held up: full", "full"),
        ("  held up: pinned memory", "pinned"),
    ] {
        waits(out, what, &journal[name]);
    }
}

fn row(out: &mut String, what: &str, now: &Value, peak: Option<&Value>) {
    let kib = |value: &Value| value.as_u64().unwrap_or(0).div_ceil(1024);
    let peak = peak.map(|peak| kib(peak).to_string()).unwrap_or_default();
    let _ = writeln!(out, "{what:<28}{:>12}{peak:>12}", kib(now));
}

fn line(out: &mut String, what: &str, value: &Value) {
    let _ = writeln!(out, "{what:<28}{:>12}", value.as_u64().unwrap_or(0));
}

fn waits(out: &mut String, what: &str, waits: &Value) {
    let number = |name: &str| waits[name].as_u64().unwrap_or(0);
    let _ = writeln!(
        out,
        "{what:<28}{:>12} times, p50 {} us, p99 {} us, max {} us",
        number("count"),
        number("p50_us"),
        number("p99_us"),
        number("max_us")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_what_the_json_says() {
        let stats = serde_json::json!({
            "memory": { "cap": 1 << 20, "used": 5000, "peak": 1 << 19,
                "classes": [{ "class": "meta", "current": 4096, "peak": 8192 }],
                "reserves": [{ "reserve": "committer", "left": 2048, "low": 1024 }],
                "waits": { "count": 7, "p50_us": 1, "p99_us": 2, "max_us": 3 },
                "activity": { "refused": 9 } },
            "eviction": { "policy": "derive", "from": "evictor", "evicted": 11 },
            "inodes": 13,
        });
        let table = table(&stats);
        for wanted in [
            "used                                   5         512",
            "  meta                                 4           8",
            "  committer                            2           1",
            "7 times, p50 1 us, p99 2 us, max 3 us",
            "requests refused                       9",
            "eviction: derive from evictor",
            "  evicted                             11",
            "inodes in memory                      13",
        ] {
            assert!(table.contains(wanted), "{wanted:?} in\n{table}");
        }
    }
}
