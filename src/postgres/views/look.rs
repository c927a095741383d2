//! A look at a view's database, and at how its definition fits it: what it does there is rolled back.

use tokio_postgres::Client;

use super::builds::PgViews;
use super::check;
use super::meta::{self, Found, quoted};
use super::session::{self, Trouble};
use crate::view::{Look, Program, ViewBuilds, ViewError};

impl PgViews {
    pub(super) async fn looked(&self) -> Result<Look, ViewError> {
        let session = session::connect(&self.options.endpoint).await?;
        // Whatever fails goes with the session.
        self.looks(&session.client).await.map_err(|trouble| self.told(trouble))
    }

    async fn looks(&self, client: &Client) -> Result<Look, Trouble> {
        let (name, definition) = (&self.options.name, &self.options.definition);
        let mut notes = Vec::new();
        let live = match meta::found(client, name).await? {
            Found::Foreign => {
                return Err(Trouble::failed(format!(
                    "schema {name} is somebody else's: a view's schema bears its name"
                )));
            }
            Found::Nothing => None,
            Found::View(meta) => {
                if meta.fingerprint != self.wanted() {
                    notes.push(definition.differs(&meta.definition));
                }
                Some(meta.fingerprint)
            }
        };
        let sql = "SELECT has_database_privilege(current_database(), 'CREATE'), pg_is_in_recovery(), current_user::text, current_database()::text";
        let row = client.query_one(sql, &[]).await?;
        let (may, copy, user, database): (bool, bool, String, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        if copy {
            return Err(Trouble::failed(format!("the server of {database} is a standby, which takes no writes")));
        }
        if !may {
            return Err(Trouble::failed(format!(
                "{user} may not make schemas in {database}, and a view has one of its own: GRANT CREATE ON DATABASE {} TO {}",
                quoted(&database),
                quoted(&user)
            )));
        }
        let scratch = quoted(&format!("{name}__checked"));
        let begin = format!(
            "BEGIN; SET LOCAL statement_timeout = '10s'; CREATE SCHEMA {scratch}; SET LOCAL search_path = {scratch}"
        );
        client.batch_execute(&begin).await?;
        check::set_up(client, definition).await?;
        check::prepare(client, &Program::new(definition.clone()).script).await?;
        self.tells(client, &format!("{name}__checked")).await?;
        client.batch_execute("ROLLBACK").await?;
        notes.extend(definition.kept());
        Ok(Look { live, notes, ..Look::default() })
    }
}
