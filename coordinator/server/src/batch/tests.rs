//! The queue itself, with work that hangs.

use std::sync::{
    LazyLock,
    atomic::{AtomicUsize, Ordering},
};

use sqlx::PgPool;

use super::*;
use crate::app::testing::app;

/// Never done.
struct Hanging;

static HANGING: LazyLock<Batcher<Hanging>> = LazyLock::new(Batcher::default);

impl Batch for Hanging {
    type Item = ();
    type Answer = ();
    const MAX: usize = 2;
    const WITHIN: Duration = Duration::from_millis(5);

    fn of(_app: &App) -> &Batcher<Self> {
        &HANGING
    }

    async fn work(_app: &App, _items: Vec<()>) -> Vec<Result<(), StoreError>> {
        std::future::pending().await
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_batch_that_hangs_is_given_up_and_so_are_those_behind_it(pool: PgPool) {
    let app = app(pool).await;
    let callers = (0..5).map(|_| hand_in::<Hanging>(&app, ()));
    for told in futures::future::join_all(callers).await {
        assert!(matches!(told, Err(StoreError::Unavailable(_))), "{told:?}");
    }
    let places = HANGING.room.available_permits();
    assert_eq!(places, PENDING_MAX, "all places are free again");
}

/// Begins when it may, and counts what it does.
struct Gated;

static GATED: LazyLock<Batcher<Gated>> = LazyLock::new(Batcher::default);
static GATE: Semaphore = Semaphore::const_new(0);
static BEGUN: AtomicUsize = AtomicUsize::new(0);
static DONE: AtomicUsize = AtomicUsize::new(0);

impl Batch for Gated {
    type Item = ();
    type Answer = ();
    const MAX: usize = 1;
    const FOR_ITS_CALLER: bool = true;

    fn of(_app: &App) -> &Batcher<Self> {
        &GATED
    }

    async fn work(_app: &App, items: Vec<()>) -> Vec<Result<(), StoreError>> {
        BEGUN.fetch_add(items.len(), Ordering::SeqCst);
        GATE.acquire().await.unwrap().forget();
        DONE.fetch_add(items.len(), Ordering::SeqCst);
        items.into_iter().map(Ok).collect()
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_place_is_taken_until_its_item_is_dealt_with_and_who_has_gone_is_left_out(pool: PgPool) {
    let app = app(pool).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let app = app.app.clone();
        callers.spawn(async move { hand_in::<Gated>(&app, ()).await });
    }
    let held = || PENDING_MAX - GATED.room.available_permits();
    app.until(|| async { held() == 3 && BEGUN.load(Ordering::SeqCst) == 1 })
        .await;
    callers.shutdown().await;
    assert_eq!(held(), 3, "they have gone, their items still wait");
    GATE.add_permits(3);
    app.until(|| async { held() == 0 }).await;
    assert_eq!(DONE.load(Ordering::SeqCst), 1, "the one that was begun");
}
