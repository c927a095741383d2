create table plain (id bigint primary key, v integer not null, note text);
create table comp (a integer, b text, v integer not null, note text, primary key (a, b));
create table texts (code text primary key, v integer not null, note text);
create table uuids (id uuid primary key, v integer not null, note text);
create table nums (id numeric(12,2) primary key, v integer not null, note text);
create table idents (tag text not null, v integer not null, note text);
create unique index idents_tag on idents (tag);
alter table idents replica identity using index idents_tag;
create table five (id integer primary key, v integer not null, note text, a integer, b text);
create index five_v on five (v);
create index five_note on five (note text_pattern_ops);
create unique index five_a on five (a);
create index five_b on five using hash (b);
create index five_some on five (b, v) where v > 10;
create table toast (id integer primary key, v integer not null, note text, big text);
alter table toast alter big set storage external;
create table uniq (id integer primary key, v integer not null, note text, u integer unique, big text);
alter table uniq alter big set storage external;
create table nokey (n integer, note text);
create table wholes (n integer, v integer, note text);
alter table wholes replica identity full;
create table passing (id integer primary key, v integer not null, note text);

-- How the key of the row number $1 is made.
create table spec (t text primary key, cols text, key text, extra text, vals text);
insert into spec values
  ('plain', 'id', '$1', '', ''),
  ('comp', 'a, b', '$1 % 50, ''b'' || $1', '', ''),
  ('texts', 'code', 'md5($1::text)', '', ''),
  ('uuids', 'id', 'md5($1::text)::uuid', '', ''),
  ('nums', 'id', '$1 * 0.37', '', ''),
  ('idents', 'tag', '''Tag-'' || ($1 * 7919 % 100003)', '', ''),
  ('five', 'id', '$1', ', a, b', ', -(random() * 2000000000)::int, ''b'' || $1 % 100'),
  ('toast', 'id', '$1', ', big', ', repeat(md5(random()::text), 20 + $1 % 150)'),
  ('uniq', 'id', '$1', ', u, big', ', (random() * 2000000000)::int, repeat(md5(random()::text), 70 + $1 % 30)');

create function sometext() returns text language sql as
  $$ select case (random() * 6)::int when 0 then null when 1 then '' when 2 then E'a\tb\\\n' else md5(random()::text) end $$;

create procedure one(k integer, m integer) language plpgsql as $$
declare s spec; op integer := (random() * 9)::int; other integer;
begin
  if random() < 0.12 then
    insert into nokey select k, sometext() from generate_series(1, 1 + k % 3);
    return;
  elsif random() < 0.15 then
    case op % 4
      when 0 then insert into wholes select k % 500, 0, sometext() from generate_series(1, 1 + k % 3);
      when 1 then update wholes set v = v + 1 where n = k % 500;
      when 2 then delete from wholes where ctid = (select min(ctid) from wholes where n = k % 500);
      else update wholes set n = m % 500, note = sometext() where ctid = (select max(ctid) from wholes where n = k % 500);
    end case;
    return;
  elsif random() < 0.03 then
    if op < 4 then truncate passing; end if;
    insert into passing select n, k, sometext() from generate_series(1, 100 + k % 300) n on conflict do nothing;
    update passing set v = v + 1 where id = k % 300;
    return;
  end if;
  select * into s from spec order by random() limit 1;
  case op
    when 0, 1 then
      execute format('insert into %I (%s, v, note%s) select %s, 0, sometext()%s on conflict do nothing', s.t, s.cols, s.extra, s.key, s.vals) using k;
    when 2, 3 then
      execute format('update %I set v = v + 1 where (%s) = (%s)', s.t, s.cols, s.key) using k;
    when 4 then
      execute format('delete from %I where (%s) = (%s)', s.t, s.cols, s.key) using k;
    when 5, 6 then
      execute format('update %1$I set (%2$s) = row(%3$s), v = v + 1 where (%2$s) = (%4$s) and not exists (select from %1$I where (%2$s) = (%3$s))',
        s.t, s.cols, replace(s.key, '$1', '$2'), s.key) using k, m;
    when 7 then
      execute format('update %I set v = v + 1, note = sometext() where (%s) in (select %s from generate_series(%s, %s) g(n))', s.t, s.cols,
        replace(s.key, '$1', 'g.n'), k, k + 40);
      update toast set big = repeat(md5(random()::text), 20 + k % 150) where id = k;
    when 8 then
      -- A value that must be unique goes from one row to another.
      select u into other from uniq where id = m;
      update uniq set u = -u where id = m;
      update uniq set u = other, v = v + 1 where id = k and other is not null;
      select a into other from five where id = m;
      update five set a = -a where id = m;
      update five set a = other where id = k and other is not null;
    else
      execute format('delete from %I where (%s) in (select %s from generate_series(%s, %s) g(n))', s.t, s.cols,
        replace(s.key, '$1', 'g.n'), k, k + 5);
  end case;
end $$;

-- Transactions with one change or some, a few of them with subtransactions that are given up.
create procedure churn(steps integer, rows integer) language plpgsql as $$
declare k integer; m integer;
begin
  for i in 1..steps loop
    for j in 1..(1 + random() * random() * 6)::int loop
      k := 1 + (random() * rows * 1.5)::int; m := 1 + (random() * rows * 1.5)::int;
      begin
        call one(k, m);
        if random() < 0.05 then raise exception 'given up' using errcode = 'WS999'; end if;
      exception when others then null;
      end;
    end loop;
    if random() < 0.05 then rollback; else commit; end if;
    perform pg_sleep(random() * 0.004);
  end loop;
end $$;

create procedure fill(rows integer) language plpgsql as $$
declare s spec;
begin
  for s in select * from spec loop
    execute format('insert into %I (%s, v, note%s) select %s, 0, sometext()%s from generate_series(1, %s) g(n) on conflict do nothing', s.t, s.cols, s.extra,
      replace(s.key, '$1', 'n'), replace(s.vals, '$1', 'n'), rows);
  end loop;
  insert into nokey select n, sometext() from generate_series(1, rows / 2) n;
  insert into wholes select n % 500, 0, sometext() from generate_series(1, rows / 4) n;
  insert into passing select n, 0, sometext() from generate_series(1, 100) n;
end $$;
