//! The description of the API is complete and does not change unseen.

use super::{super::openapi, *};

#[test]
fn the_description_is_the_one_that_was_looked_at() {
    insta::assert_snapshot!(openapi().to_pretty_json().unwrap());
}

#[test]
fn every_route_is_described() {
    let routes = include_str!("../../api.rs").matches(".route(").count();
    assert_eq!(openapi().paths.paths.len(), routes);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn every_described_path_is_there(pool: PgPool) {
    let site = site(pool).await;
    let served = site.ok(get("/openapi.json")).await;
    assert_eq!(served, serde_json::to_value(openapi()).unwrap());
    for (path, operations) in served["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "x").replace("{sha256}", "x");
        for method in operations.as_object().unwrap().keys() {
            let method = method.to_uppercase().parse().unwrap();
            let text = site.send(request(&method, &path)).await.text();
            assert!(!text.contains("no such path"), "{method} {path}: {text}");
            assert!(!text.contains("does not take"), "{method} {path}: {text}");
        }
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn the_root_says_where_to_read_on(pool: PgPool) {
    let site = site(pool).await;
    let root = site.ok(with(get("/"), "accept", "application/json")).await;
    assert_eq!(
        root,
        json!({ "name": "OWM coordinator", "docs": "/openapi.json" })
    );
}
