//! One direction between two clusters: what happens to a packet, and when it arrives. Pure: time and dice are arguments.
//!
//! A line is a queue before a wire of limited bandwidth, and a delay after it. Packets stay in order, whatever their jitter:
//! on real lines it comes from queues.

use std::time::Duration;

/// A queue holds at most what the wire carries in this time: the buffer of a usual router.
const QUEUE: Duration = Duration::from_millis(50);
/// But never less than this, in bytes, so that a burst of one sender fits on a slow line.
const QUEUE_FLOOR_BYTES: u64 = 64 << 10;
/// A wire slower than this carries nothing to the purpose, and its times leave the clock's scale.
const SLOWEST_BIT_S: u64 = 1_000;

/// What a line is like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    /// How long a packet is under way.
    pub delay: Duration,
    /// Up to this much longer, evenly spread.
    pub jitter: Duration,
    /// The part of the packets that is lost, 0 to 1.
    pub loss: f64,
    /// Bits a second; none for a wire without a limit.
    pub rate_bit_s: Option<u64>,
    /// Nothing arrives, and nobody is told.
    pub cut: bool,
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives then.
    Arrives(Duration),
    /// It never does.
    Lost(Loss),
}

/// Why a packet is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The line is cut.
    Cut,
    /// By chance.
    Dice,
    /// The queue is full.
    Queue,
}

/// A line. Times are since any one moment.
#[derive(Clone, Debug, Default)]
pub struct Line {
    shape: Shape,
    /// When the wire has carried all that waits.
    free_at: Duration,
    /// When the last packet arrives: none arrives before it.
    last: Duration,
}

impl Line {
    /// What it is like.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// What it is like from now on. What is under way arrives as it would have.
    pub fn set(&mut self, shape: Shape) {
        let loss = if shape.loss.is_finite() {
            shape.loss.clamp(0.0, 1.0)
        } else {
            0.0
        };
        *self = Self {
            shape: Shape { loss, ..shape },
            ..Self::default()
        };
    }

    /// Sends a packet of so many bytes; `dice`, in 0..1, are for its loss and its jitter.
    pub fn send(&mut self, bytes: usize, now: Duration, dice: [f64; 2]) -> Fate {
        let [loss, jitter] = dice;
        if self.shape.cut {
            return Fate::Lost(Loss::Cut);
        }
        if loss < self.shape.loss {
            return Fate::Lost(Loss::Dice);
        }
        let sent = match self.shape.rate_bit_s {
            None => now,
            Some(rate) => {
                let rate = rate.max(SLOWEST_BIT_S);
                let begins = self.free_at.max(now);
                if begins - now > longest_wait(rate) {
                    return Fate::Lost(Loss::Queue);
                }
                self.free_at = begins + time_on_wire(bytes as u64, rate);
                self.free_at
            }
        };
        let arrives = sent + self.shape.delay + self.shape.jitter.mul_f64(jitter.clamp(0.0, 1.0));
        self.last = self.last.max(arrives);
        Fate::Arrives(self.last)
    }
}

fn time_on_wire(bytes: u64, rate: u64) -> Duration {
    let ns = u128::from(bytes) * 8_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

fn longest_wait(rate: u64) -> Duration {
    QUEUE.max(time_on_wire(QUEUE_FLOOR_BYTES, rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: [f64; 2] = [1.0, 0.0];

    fn line(shape: Shape) -> Line {
        let mut line = Line::default();
        line.set(shape);
        line
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_packet_arrives_after_the_delay_and_its_part_of_the_jitter_in_order() {
        let mut line = line(Shape {
            delay: ms(30),
            jitter: ms(10),
            ..Shape::default()
        });
        assert_eq!(line.send(100, ms(5), [1.0, 0.5]), Fate::Arrives(ms(40)));
        assert_eq!(line.send(100, ms(6), [1.0, 0.0]), Fate::Arrives(ms(40)));
        assert_eq!(line.send(100, ms(11), [1.0, 0.0]), Fate::Arrives(ms(41)));
    }

    #[test]
    fn a_wire_takes_its_time_and_its_queue_is_bounded() {
        // A byte a microsecond.
        let mut line = line(Shape {
            rate_bit_s: Some(8_000_000),
            delay: ms(1),
            ..Shape::default()
        });
        assert_eq!(line.send(1_000, ms(0), NEVER), Fate::Arrives(ms(2)));
        assert_eq!(line.send(1_000, ms(0), NEVER), Fate::Arrives(ms(3)));
        let mut taken = 2;
        while line.send(1_000, ms(0), NEVER) != Fate::Lost(Loss::Queue) {
            taken += 1;
            assert!(taken < 1_000, "the queue has no end");
        }
        let floor = QUEUE_FLOOR_BYTES / 1_000;
        assert!((floor..floor + 3).contains(&taken), "{taken}");
        // When it has drained it takes packets again.
        assert_eq!(line.send(1_000, ms(900), NEVER), Fate::Arrives(ms(902)));
    }

    #[test]
    fn loss_is_as_set_and_a_cut_line_carries_nothing() {
        let mut lossy = line(Shape {
            loss: 0.3,
            ..Shape::default()
        });
        let mut rng = fastrand::Rng::with_seed(4);
        let sent = 100_000;
        let lost = (0..sent)
            .filter(|_| lossy.send(100, ms(0), [rng.f64(), 0.0]) == Fate::Lost(Loss::Dice))
            .count();
        let share = lost as f64 / f64::from(sent);
        assert!((0.29..0.31).contains(&share), "{share}");
        let mut cut = line(Shape {
            cut: true,
            ..Shape::default()
        });
        assert_eq!(cut.send(100, ms(0), NEVER), Fate::Lost(Loss::Cut));
    }

    #[test]
    fn no_shape_leaves_the_scale() {
        let mut worst = line(Shape {
            loss: f64::NAN,
            rate_bit_s: Some(0),
            jitter: ms(1),
            ..Shape::default()
        });
        for n in 0..100 {
            let _: Fate = worst.send(usize::MAX, ms(n), [0.0, f64::MAX]);
        }
    }

    #[test]
    fn what_it_was_like_before_holds_nothing_back() {
        let mut line = line(Shape {
            delay: ms(2_000),
            ..Shape::default()
        });
        assert_eq!(line.send(100, ms(0), NEVER), Fate::Arrives(ms(2_000)));
        line.set(Shape::default());
        assert_eq!(line.send(100, ms(1), NEVER), Fate::Arrives(ms(1)));
    }
}
