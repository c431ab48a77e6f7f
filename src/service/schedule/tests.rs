use std::cell::RefCell;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::cache::DAY;
use super::*;
use crate::config::HashFlags;

fn member(number: u16, weight: u16) -> Member {
    let address = Ipv4Addr::from_bits(0x0a09_000a + u32::from(number)).into();
    Member { id: RealId(number), holder: 0, ready: true, weight, last_weight: weight, address, port: 80 }
}

/// Reals 1, 2, 3 ... in the order in which they were added.
fn members(weights: &[u16]) -> Vec<Member> {
    weights.iter().enumerate().rev().map(|(place, weight)| member(place as u16 + 1, *weight)).collect()
}

fn of(scheduler: Scheduler, members: Vec<Member>) -> Roster {
    Roster::build(scheduler, members.into(), 0, 0)
}

fn opening(number: u32) -> Opening {
    let address = |bits: u32| Ipv4Addr::from_bits(bits).into();
    Opening { client: address(0x0a01_0000 + number), client_port: 1024, address: address(0x0a09_0100 + number) }
}

fn idle(_: RealId) -> Load {
    Load::default()
}

fn busy(active: u32) -> Load {
    Load { active, ..Load::default() }
}

fn run(scheduler: Scheduler, roster: &Roster, worker: usize, count: u32) -> String {
    let mut schedule = Schedule::start(scheduler, roster, Start { worker, ..Start::default() });
    let mut next =
        |number| schedule.choose(roster, &opening(number), idle, 0).map_or("-".into(), |id| id.0.to_string());
    (0..count).map(&mut next).collect::<Vec<_>>().join(" ")
}

fn every_scheduler() -> Vec<Scheduler> {
    let flags = HashFlags { port: true, fallback: true };
    Scheduler::ALL.into_iter().chain([Scheduler::SourceHash(flags), Scheduler::KernelMaglev(flags)]).collect()
}

#[test]
fn each_worker_starts_elsewhere() {
    let roster = of(Scheduler::RoundRobin, members(&[1, 1, 1]));
    let from = |worker| run(Scheduler::RoundRobin, &roster, worker, 3);
    assert_eq!([from(0), from(1), from(2), from(3)], ["3 2 1", "2 1 3", "1 3 2", "3 2 1"]);
    let weighted = of(Scheduler::WeightedRoundRobin, members(&[3, 2, 1]));
    assert_eq!(run(Scheduler::WeightedRoundRobin, &weighted, 0, 8), "3 2 1 1 2 1 3 2");
    assert_eq!(run(Scheduler::WeightedRoundRobin, &weighted, 2, 6), "1 1 2 1 3 2");
}

#[test]
fn nobody_is_nobody() {
    for scheduler in every_scheduler() {
        for weights in [&[][..], &[0, 0]] {
            assert_eq!(run(scheduler, &of(scheduler, members(weights)), 0, 2), "- -", "{scheduler:?}");
        }
        let mut silent = members(&[65_535, 1]);
        silent.iter_mut().for_each(|member| member.ready = false);
        assert_eq!(run(scheduler, &of(scheduler, silent), 0, 2), "- -", "{scheduler:?}");
    }
}

#[test]
fn a_real_of_65535_that_is_silent_costs_no_long_search() {
    let mut two = members(&[65_535, 1]);
    two[1].ready = false;
    assert_eq!(run(Scheduler::WeightedRoundRobin, &of(Scheduler::WeightedRoundRobin, two), 0, 3), "2 2 2");
}

proptest! {
    /// Whatever the weights and loads, nobody gets a connection who has no weight, does not answer or is overloaded
    /// (which lblc alone overlooks); and who can be had is had, but for sh, mh and dh without fallback, ovf and maglev.
    #[test]
    fn only_the_usable_are_chosen(
        weights in proptest::collection::vec(prop_oneof![0u16..4, any::<u16>()], 1..8),
        traits in proptest::collection::vec((any::<bool>(), prop_oneof![Just(0u32), 0u32..9, any::<u32>()], 0u32..9), 8),
        overloaded in proptest::collection::vec(proptest::bool::weighted(0.2), 8),
    ) {
        for scheduler in every_scheduler() {
            let mut all = members(&weights);
            for member in &mut all {
                member.ready = traits[usize::from(member.id.0)  - 1].0;
            }
            let loads = |id: RealId| {
                let (_, active, inactive) = traits[usize::from(id.0) - 1];
                Load { active, inactive, overloaded: overloaded[usize::from(id.0) - 1] }
            };
            let usable = |member: &Member| member.ready && member.weight > 0 && !loads(member.id).overloaded;
            let roster = of(scheduler, all);
            let mut schedule = Schedule::start(scheduler, &roster, Start { worker: 1, addresses: 4, ..Start::default() });
            for number in 0..12 {
                let chosen = schedule.choose(&roster, &opening(number), loads, 0);
                let chosen = chosen.map(|id| roster.members().iter().find(|member| member.id == id).unwrap());
                prop_assert!(chosen.is_none_or(usable), "{:?}", scheduler);
                let may_refuse = matches!(scheduler, Scheduler::DestinationHash | Scheduler::Overflow | Scheduler::Maglev
                    | Scheduler::SourceHash(_) | Scheduler::KernelMaglev(_));
                if !may_refuse {
                    prop_assert_eq!(chosen.is_some(), roster.members().iter().any(usable), "{:?}", scheduler);
                }
            }
        }
    }

    /// Over a whole round each real is chosen in exact proportion to its weight, whichever of them answer.
    #[test]
    fn wrr_s_proportions_are_exact(
        weights in proptest::collection::vec(0u16..40, 1..8), silent in proptest::collection::vec(any::<bool>(), 8)
    ) {
        let mut all = members(&weights);
        for (member, silent) in all.iter_mut().zip(&silent) {
            member.ready = !silent;
        }
        let divisor = weights.iter().map(|weight| u32::from(*weight)).fold(0, walk::common_divisor).max(1);
        let share = |member: &Member| if member.ready { u32::from(member.weight) / divisor } else { 0 };
        let round: u32 = all.iter().map(share).sum();
        let roster = of(Scheduler::WeightedRoundRobin, all);
        let mut schedule = Schedule::start(Scheduler::WeightedRoundRobin, &roster, Start::default());
        let mut counts = vec![0; weights.len() + 1];
        for _ in 0..2 * round {
            counts[schedule.choose(&roster, &opening(0), idle, 0).unwrap().index()] += 1;
        }
        for member in roster.members() {
            prop_assert_eq!(counts[member.id.index()], 2 * share(member));
        }
    }

    /// Several edits that are seen as one do no harm: everybody has a turn in each round.
    #[test]
    fn rr_is_fair_after_any_edits(
        lists in proptest::collection::vec(proptest::sample::subsequence((1u16..12).collect::<Vec<_>>(), 1..11), 1..6)
    ) {
        let mut schedule: Option<Schedule> = None;
        for (list, edits) in lists.iter().zip(0..) {
            let list: Vec<_> = list.iter().map(|number| member(*number, 1)).collect();
            let roster = Roster::build(Scheduler::RoundRobin, list.clone().into(), edits, 0);
            let fresh = || Schedule::start(Scheduler::RoundRobin, &roster, Start::default());
            let schedule = schedule.get_or_insert_with(fresh);
            let mut chosen: Vec<_> =
                list.iter().map(|_| schedule.choose(&roster, &opening(0), idle, 0).unwrap().0).collect();
            chosen.sort();
            let mut all: Vec<_> = list.iter().map(|member| member.id.0).collect();
            all.sort();
            prop_assert_eq!(chosen, all);
            schedule.choose(&roster, &opening(0), idle, 0);
        }
    }

    /// The kernel's rule, written the long way: subtract weights from the lot until nothing is left of it.
    #[test]
    fn twos_takes_the_lighter_of_two_lots(
        weights in proptest::collection::vec(0u16..6, 1..5), loads in proptest::collection::vec(0u32..5, 5)
    ) {
        let roster = of(Scheduler::TwoChoices, members(&weights));
        let load = |id: RealId| busy(loads[id.index()]);
        let scene = Scene { roster: &roster, loads: load };
        let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
        prop_assume!(total > 0);
        let drawn = |mut lot: i64| {
            for member in roster.members() {
                lot -= i64::from(member.weight);
                if member.weight > 0 && lot <= 0 {
                    return member;
                }
            }
            unreachable!()
        };
        for first in 0..=total {
            for second in 0..=total {
                let (one, other) = (drawn(first), drawn(second));
                let cost = |member: &Member| load(member.id).active * 256;
                let second_wins = u32::from(other.weight) * cost(one) > u32::from(one.weight) * cost(other);
                let expected = if second_wins { other } else { one };
                prop_assert_eq!(twos::lighter_of(&scene, [first as u64, second as u64]), Some(expected));
            }
        }
    }
}

/// The draws themselves: when nobody has anything to do, the first lot wins, and its chances are the weights and one
/// more for the newest.
#[test]
fn twos_draws_evenly_by_weight_and_otherwise_for_each_worker() {
    let roster = of(Scheduler::TwoChoices, members(&[5, 3, 1]));
    let draws = |worker| {
        let start = Start { worker, seed: 42, ..Start::default() };
        let mut schedule = Schedule::start(Scheduler::TwoChoices, &roster, start);
        (0..100_000).map(|_| schedule.choose(&roster, &opening(0), idle, 0).unwrap().0).collect::<Vec<_>>()
    };
    let first = draws(0);
    for (number, chances) in [(1, 5.0), (2, 3.0), (3, 2.0)] {
        let share = first.iter().filter(|chosen| **chosen == number).count() as f64 / first.len() as f64;
        // Five standard deviations of 100,000 draws are below 0.008.
        assert!((share - chances / 10.0).abs() < 0.008, "real {number}: {share}");
    }
    assert_eq!(first, draws(0));
    assert_ne!(first, draws(1));
}

#[test]
fn lblc_keeps_an_address_s_real_until_it_cannot_take_it() {
    let loads = RefCell::new([Load::default(); 4]);
    let load = |id: RealId| loads.borrow()[id.index()];
    let start = Start { addresses: 4, ..Start::default() };
    let mut roster = of(Scheduler::LocalityLeastConnection, members(&[2, 2, 2]));
    let mut schedule = Schedule::start(Scheduler::LocalityLeastConnection, &roster, start);
    let mut choose = |roster: &Roster, tick| schedule.choose(roster, &opening(1), load, tick).map(|id| id.0);
    assert_eq!(choose(&roster, 0), Some(3));
    loads.borrow_mut()[3] = Load { active: 2, inactive: 9, overloaded: true };
    assert_eq!(choose(&roster, 0), Some(3), "at its upper limit, and not above its weight");
    let gone: Vec<_> = roster.members()[1..].to_vec();
    let without = Roster::build(Scheduler::LocalityLeastConnection, gone.into(), 1, 0);
    loads.borrow_mut()[1] = busy(1);
    loads.borrow_mut()[2] = busy(2);
    assert_eq!(choose(&without, 0), Some(1), "it is gone");
    assert_eq!(choose(&roster, 1), Some(1), "it is back, but the address has moved");
    loads.borrow_mut()[1] = busy(3);
    loads.borrow_mut()[2] = busy(1);
    assert_eq!(choose(&roster, 1), Some(1), "above its weight, and nobody below half of his");
    loads.borrow_mut()[2] = busy(0);
    assert_eq!(choose(&roster, 1), Some(2));
    loads.borrow_mut()[1] = busy(0);
    assert_eq!(choose(&roster, 1 + DAY), Some(2), "a day, and no round");
    loads.borrow_mut()[2] = busy(1);
    assert_eq!(choose(&roster, 2 * DAY + 8 * 60 * 60), Some(1), "forgotten");
    let recycled = roster.members().to_vec().into_iter().map(|member| Member { holder: 1, ..member }).collect();
    roster = Roster::build(Scheduler::LocalityLeastConnection, recycled, 2, 0);
    loads.borrow_mut()[1] = busy(1);
    loads.borrow_mut()[2] = busy(0);
    assert_eq!(choose(&roster, 2 * DAY + 8 * 60 * 60), Some(2), "another real with the same id");
}

#[test]
fn lblcr_s_group_grows_under_load_and_shrinks_after_a_day() {
    let loads = RefCell::new([Load::default(); 4]);
    let load = |id: RealId| loads.borrow()[id.index()];
    let roster = of(Scheduler::LocalityReplicated, members(&[1, 1, 1]));
    let start = Start { addresses: 1, ..Start::default() };
    let mut schedule = Schedule::start(Scheduler::LocalityReplicated, &roster, start);
    let mut choose = |tick| schedule.choose(&roster, &opening(1), load, tick).map(|id| id.0);
    assert_eq!(choose(0), Some(3));
    loads.borrow_mut()[3] = busy(2);
    assert_eq!(choose(0), Some(2), "3 has too much: 2 joins");
    loads.borrow_mut()[2] = busy(1);
    loads.borrow_mut()[3] = busy(0);
    assert_eq!(choose(1), Some(3), "the lighter one of the group, although 1 has nothing to do either");
    loads.borrow_mut()[3] = busy(1);
    assert_eq!(choose(DAY - 1), Some(2), "of two as light the one that joined last");
    loads.borrow_mut()[3] = busy(1);
    assert_eq!(choose(DAY + 1), Some(2), "the last choice of two; the first of the heaviest leaves");
    loads.borrow_mut()[3] = busy(0);
    assert_eq!(choose(DAY + 2), Some(3), "only 3 is left");
}

#[test]
fn lblcr_finds_its_room_again() {
    let roster = of(Scheduler::LocalityReplicated, members(&[1, 1, 1]));
    let start = Start { addresses: 8, ..Start::default() };
    let mut schedule = Schedule::start(Scheduler::LocalityReplicated, &roster, start);
    let turn = RefCell::new(0u32);
    // Each real in turn has too much.
    let loads = |id: RealId| busy(if u32::from(id.0) == *turn.borrow() % 3 + 1 { 0 } else { 3 });
    for number in 0..10_000 {
        *turn.borrow_mut() += number % 7;
        let chosen = schedule.choose(&roster, &opening(number % 40), loads, number);
        assert_eq!(chosen, Some(RealId((*turn.borrow() % 3 + 1) as u16)));
    }
    let Standing::Replicated(replicated) = &schedule.standing else { unreachable!() };
    replicated.assert_all_links_are_somewhere();
}

#[test]
fn tables_share_by_weight() {
    let shares = |scheduler, weights: &[u16]| {
        let roster = of(scheduler, members(weights));
        let mut shares = vec![0; weights.len()];
        (0..65_537).filter_map(|place| roster.in_place(place)).for_each(|member| shares[member.id.index() - 1] += 1);
        shares
    };
    let flags = HashFlags::default();
    assert_eq!(shares(Scheduler::DestinationHash, &[9, 0, 1]), [85, 85, 86], "dh deals one each, newest first");
    assert_eq!(shares(Scheduler::SourceHash(flags), &[2, 1, 1]), [128, 64, 64]);
    assert_eq!(shares(Scheduler::KernelMaglev(flags), &[2, 1, 1]).iter().sum::<usize>(), 4093);
    let heavy = shares(Scheduler::KernelMaglev(flags), &[3000, 1000, 0]);
    assert!(heavy[0].abs_diff(3 * heavy[1]) <= 4 && heavy[2] == 0, "{heavy:?}");
}

/// A service that schedules by a table sends what it knows nothing of where it would have sent it.
#[test]
fn without_state_the_tables_are_the_same() {
    for scheduler in [Scheduler::Maglev, Scheduler::KernelMaglev(HashFlags { port: true, fallback: true })] {
        let roster = of(scheduler, members(&[1, 2, 3, 0]));
        let mut schedule = Schedule::start(scheduler, &roster, Start::default());
        for number in 0..500 {
            let chosen = schedule.choose(&roster, &opening(number), idle, 0);
            assert_eq!(roster.without_state(scheduler, &opening(number)), chosen);
        }
    }
    let roster = of(Scheduler::RoundRobin, members(&[1, 0, 1]));
    let chosen = |number| roster.without_state(Scheduler::RoundRobin, &opening(number)).unwrap().0;
    assert!((0..100).map(chosen).any(|real| real == 1) && (0..100).map(chosen).all(|real| real != 2));
}

/// The share of the flows of reals that stay and yet move, for the kernel's tables; our larger one's is shown by the
/// tests of `maglev`.
#[test]
fn few_choices_of_mh_and_most_of_sh_change_when_reals_go() {
    let flags = HashFlags { port: true, fallback: false };
    let (mh, sh) = (Scheduler::KernelMaglev(flags), Scheduler::SourceHash(flags));
    for (scheduler, count, leave, expected) in
        [(mh, 32, 1, 0.0..0.03), (mh, 100, 10, 0.0..0.08), (sh, 32, 1, 0.7..1.0), (sh, 100, 10, 0.5..1.0)]
    {
        let all = of(scheduler, members(&vec![1; count]));
        // Those that leave are the oldest: 1 to `leave`.
        let without = of(scheduler, members(&vec![1; count])[..count - leave].to_vec());
        let mut schedule = Schedule::start(scheduler, &all, Start::default());
        let pairs = (0..50_000).map(|number| {
            let mut choose = |roster: &Roster| schedule.choose(roster, &opening(number), idle, 0).unwrap().index();
            (choose(&all), choose(&without))
        });
        let stayed: Vec<_> = pairs.filter(|(before, _)| *before > leave).collect();
        let moved = stayed.iter().filter(|(before, after)| before != after).count() as f64 / stayed.len() as f64;
        println!("{}: {leave} of {count} leave: {:.2} % of the others' flows move", scheduler.name(), moved * 100.0);
        assert!(expected.contains(&moved), "{}: {leave} of {count}: {moved}", scheduler.name());
    }
}
