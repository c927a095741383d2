//! Updates and deletes under `kill -9` of nodes and of the writer itself, also during first copies, with a rollback
//! journal: balances always add up, and all copies end equal.
//!
//! The number of kills is 6, or `WATERSHED_KILLS`.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::Connection;

use super::site::{Ground, Site, wait, wait_equal};

const SCHEMA: &str = "create table balances (id integer primary key, amount integer not null, note text);";
const OWNER: &str = "[table.balances]\nowner = \"north\"\n";
const TOTAL: &str = "10000";

/// Moves amounts between rows, deletes rows and adds rows, all in transactions that keep the total.
const WRITER: &str = "
import random, sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
while True:
    c.execute('begin immediate')
    for _ in range(random.randint(1, 4)):
        (a,), (b,) = c.execute('select id from balances order by random() limit 2').fetchall()
        what = random.random()
        if what < .2:
            (amount,) = c.execute('select amount from balances where id = ?', (a,)).fetchone()
            c.execute('delete from balances where id = ?', (a,))
            c.execute('update balances set amount = amount + ? where id = ?', (amount, b))
        elif what < .4:
            c.execute('insert into balances(amount, note) values (7, ?)', ('new',))
            c.execute('update balances set amount = amount - 7 where id = ?', (b,))
        else:
            c.execute('update balances set amount = amount - 3 where id = ?', (a,))
            c.execute('update balances set amount = amount + 3 where id = ?', (b,))
    if random.random() < .1:
        time.sleep(.02)
    c.execute('commit')
    time.sleep(.01)
";

struct Writer(Child);

impl Writer {
    fn start(path: PathBuf) -> Writer {
        let mut python = Command::new("python3");
        python.args(["-c", WRITER]).arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Writer(python.spawn().expect("python3"))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn total(path: &PathBuf) -> i64 {
    let connection = Connection::open(path).expect("the database");
    connection.busy_timeout(Duration::from_secs(30)).expect("a timeout");
    connection.query_row("select coalesce(sum(amount), 0) from balances", [], |row| row.get(0)).expect("a sum")
}

fn pause(least: u64, more: u64) {
    std::thread::sleep(Duration::from_millis(least + rand::random::<u64>() % more));
}

#[test]
fn balances_add_up_everywhere_while_nodes_and_the_writer_are_killed() {
    let kills: u64 = std::env::var("WATERSHED_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(6);
    let ground = Ground::new();
    let [mut hq, mut north, mut south] = ["hq", "north", "south"].map(|name| ground.site(name, SCHEMA));
    hq.configure(None, &format!("[send.children]\ntables = [\"balances\"]\n{OWNER}"));
    north.configure(Some(hq.port), &format!("[send.parent]\ntables = [\"balances\"]\n{OWNER}"));
    south.configure(Some(hq.port), OWNER);
    north.sql(
        "with recursive c(i) as (select 1 union all select i + 1 from c where i < 100)
         insert into balances select i, 100, hex(randomblob(100)) from c",
    );
    let mut writer = Writer::start(north.database());
    let mut sites = [hq, north, south];
    sites.iter_mut().for_each(Site::start);
    for _ in 0..kills / 2 {
        pause(20, 300);
        let victim = rand::random::<u64>() as usize % 3;
        sites[victim].kill();
        sites[victim].start();
    }
    for site in &mut sites {
        site.wait_healthy();
    }
    // A copy shows in the table while it is made; from when all stand, only whole transactions do.
    let standing =
        |site: &Site| site.status()["ready"] == true && site.sql("select sum(amount) from balances").trim() == TOTAL;
    let mut times = 0;
    wait("first copies are done", || {
        times = if sites.iter().all(standing) { times + 1 } else { 0 };
        times > 20
    });
    let stop = Arc::new(AtomicBool::new(false));
    let observing = {
        let (paths, stop): (Vec<PathBuf>, _) = (sites.iter().map(Site::database).collect(), stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for path in &paths {
                    assert_eq!(total(path).to_string(), TOTAL, "half a transaction is visible in {}", path.display());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        })
    };
    for _ in 0..kills {
        pause(50, 400);
        match rand::random::<u64>() as usize % 4 {
            3 => writer = Writer::start(sites[1].database()),
            victim => {
                sites[victim].kill();
                sites[victim].start();
            }
        }
    }
    drop(writer);
    for site in &mut sites {
        site.wait_healthy();
    }
    let [hq, north, south] = &sites;
    wait_equal("select * from balances order by id", &[hq, north, south]);
    stop.store(true, Ordering::Relaxed);
    observing.join().expect("the total was the same at every look");
    assert_eq!(hq.sql("select sum(amount) from balances").trim(), TOTAL);
}
