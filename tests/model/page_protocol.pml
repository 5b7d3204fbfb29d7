/* page_protocol: the life of the pages of the fixed-size allocator (src/alloc/fsa.c), so small that all of it is seen.
 *
 * THREADS threads, PAGES pages, WORDS words of BITS blocks, 2 classes. A page is in the pool, or belongs to a class.
 * Each thread has a source (one attached page) of a class that it chooses, takes and gives back blocks, and lets go of
 * its page now and then. One line of the model is one atomic step of the code: a load, a store, an atomic operation on
 * a word or a state; a lock is a lock, and what is done under it has steps of its own.
 * Scans of a page (all_free, none_free) read word by word.
 *
 *   fsa.c                          here
 *   take_recycled, word_take       take:     load the word, `and` it to 0
 *   fsa_return                     give:     `or`, load the state, settle if it calls for it
 *   settle                         settle(): lock, identity, state, none_free, compare-and-swap, list, all_free, disown
 *   let_go                         let_go(): lock, store UNLISTED, none_free, store ATTACHED
 *   take_listed, take_page         attach(): list or pool
 *   fsa_detach                     detach(): pending goes back, store UNLISTED, settle
 *   fsa_trim, fsa_idle             trimmer:  lock, every listed page: all_free, disown (-DTRIM; -DKEEP=0 is like it)
 *   retire                         retire(): the page goes to the pool, from where any class may take it
 *
 * What is left out: hint and virgin (which words are looked at first), the class table, budgets, more than one heap,
 * weak memory (words and states are sequentially consistent there; what is relaxed is under the lock).
 *
 * Properties, as assertions where they can break:
 *   ONE OWNER    a block is taken by one thread at a time, and only while its page is of that thread's class
 *   NO LOSS      when everybody is quiet, a page of a class with a free block is listed
 *   ONE LIST     a page is in one list at most, in it once, and in that of its own class
 *   QUIET        a retired page has no holder and no block out
 *   PROGRESS     no state without a next step but the end (pan's own check for invalid end states)
 *
 * Mutations, each of which must be found: -DNO_RECHECK (let_go does not look again after it stored UNLISTED),
 * -DLOOK_OUTSIDE (all_free is read before the lock is taken, not under it), -DLATE_DISOWN (the identity is cleared
 * after the lock was released) and -DUNLOCKED_LET_GO (let_go without the lock): both were in the code once,
 * -DNO_IDENTITY (settle does not ask whose the page is), -DSTATE_FIRST (a return reads the state before its `or`). */

#ifndef THREADS
#define THREADS 2
#endif
#ifndef PAGES
#define PAGES 2
#endif
#ifndef WORDS
#define WORDS 2
#endif
#ifndef BITS
#define BITS 1
#endif
#ifndef OPS
#define OPS 3          /* takes and gives of a thread before it detaches */
#endif
#ifndef KEEP
#define KEEP 1         /* empty pages that a class keeps; the code keeps one, and none when it trims */
#endif
#define CLASSES 2
#define FULL ((1 << BITS) - 1)
#define NONE 255

mtype = { POOL, ATTACHED, UNLISTED, LISTED };

mtype state[PAGES];
byte identity[PAGES];        /* class, NONE */
byte bits[PAGES * WORDS];
bool locked[CLASSES];
bool in_list[PAGES * CLASSES]; /* order does not matter: any listed page may be attached */
byte listed[CLASSES];

/* Ghosts: what is true, known to nobody in the code. */
bool out[PAGES * WORDS * BITS];    /* somebody holds the block */
byte life[PAGES];                 /* class in which its blocks are out */
byte holder[PAGES];               /* process that takes from it, 0 = none */
byte done;
#ifdef PASS
byte mail, mail_page, mail_word, mail_class; /* a batch on its way from one thread to another */
#endif

#define word(p, w) bits[(p) * WORDS + (w)]
#define block(p, w, b) out[((p) * WORDS + (w)) * BITS + (b)]
#define lock(c) atomic { !locked[c] -> locked[c] = true }
#define unlock(c) locked[c] = false

inline list_push(c, p)
{
    d_step {
        assert(!in_list[(p) * CLASSES] && !in_list[(p) * CLASSES + 1]); /* ONE LIST */
        assert(life[p] == c);
        in_list[(p) * CLASSES + c] = true;
        listed[c]++
    }
}

inline list_remove(c, p)
{
    d_step {
        assert(in_list[(p) * CLASSES + c]);
        in_list[(p) * CLASSES + c] = false;
        listed[c]--
    }
}

/* i and yes are the caller's. */
inline all_free(p)
{
    yes = true;
    i = 0;
    do
    :: i < WORDS && yes -> yes = (word(p, i) == FULL); i++
    :: else -> break
    od;
    i = 0
}

inline any_free(p)
{
    yes = false;
    i = 0;
    do
    :: i < WORDS && !yes -> yes = (word(p, i) != 0); i++
    :: else -> break
    od;
    i = 0
}

inline assert_quiet(p)
{
    d_step {
        assert(holder[p] == 0);
        i = 0;
        do
        :: i < WORDS * BITS -> assert(!out[(p) * WORDS * BITS + i]); i++
        :: else -> break
        od;
        i = 0
    }
}

/* Under the lock. */
inline disown(c, p)
{
    list_remove(c, p);
    state[p] = ATTACHED;
#ifndef LATE_DISOWN
    identity[p] = NONE
#endif
}

inline retire(p)
{
    assert_quiet(p); /* QUIET */
#ifdef LATE_DISOWN
    identity[p] = NONE;
#endif
    d_step { life[p] = NONE; state[p] = POOL }
}

inline settle(c, p)
{
#ifdef LOOK_OUTSIDE
    all_free(p);
    early = yes;
#endif
    lock(c);
    quiet = false;
#ifndef NO_IDENTITY
    if
    :: identity[p] == c ->
#endif
        if
        :: state[p] == UNLISTED ->
            any_free(p);
            if
            :: yes ->
                if
                :: atomic { state[p] == UNLISTED -> state[p] = LISTED }; list_push(c, p)
                :: atomic { state[p] != UNLISTED -> skip }
                fi
            :: else
            fi
        :: else
        fi;
        if
        :: listed[c] > KEEP && state[p] == LISTED ->
#ifdef LOOK_OUTSIDE
            yes = early;
#else
            all_free(p);
#endif
            if
            :: yes -> disown(c, p); quiet = true
            :: else
            fi
        :: else
        fi
#ifndef NO_IDENTITY
    :: else
    fi
#endif
    ;
    unlock(c);
    if
    :: quiet -> retire(p)
    :: else
    fi;
    quiet = false;
    yes = false
}

/* kept: the page is still ours. */
inline let_go(c, p)
{
#ifndef UNLOCKED_LET_GO
    lock(c);
#endif
    d_step { state[p] = UNLISTED; holder[p] = 0 };
#ifdef NO_RECHECK
    yes = false;
#else
    any_free(p);
#endif
    kept = false;
    if
    :: yes ->
#ifdef UNLOCKED_LET_GO
        if
        :: d_step { state[p] == UNLISTED -> state[p] = ATTACHED; assert(holder[p] == 0); holder[p] = _pid }; kept = true
        :: atomic { state[p] != UNLISTED -> skip }
        fi
#else
        d_step {
            assert(state[p] == UNLISTED && holder[p] == 0 && identity[p] == c);
            state[p] = ATTACHED;
            holder[p] = _pid
        };
        kept = true
#endif
    :: else
    fi;
#ifndef UNLOCKED_LET_GO
    unlock(c);
#endif
    yes = false
}

/* source = a page of class c, or NONE: nothing to be had. */
inline attach(c)
{
    source = NONE;
    lock(c);
    d_step {
        if
        :: in_list[0 * CLASSES + c] -> source = 0
#if PAGES > 1
        :: in_list[1 * CLASSES + c] -> source = 1
#endif
#if PAGES > 2
        :: in_list[2 * CLASSES + c] -> source = 2
#endif
        :: else
        fi
    };
    if
    :: source != NONE ->
        list_remove(c, source);
        d_step {
            assert(state[source] == LISTED && identity[source] == c && holder[source] == 0);
            state[source] = ATTACHED;
            holder[source] = _pid
        }
    :: else
    fi;
    unlock(c);
    if
    :: source == NONE ->
        if /* page_pool_take */
        :: atomic { state[0] == POOL -> state[0] = ATTACHED; source = 0; holder[0] = _pid }
#if PAGES > 1
        :: atomic { state[1] == POOL -> state[1] = ATTACHED; source = 1; holder[1] = _pid }
#endif
#if PAGES > 2
        :: atomic { state[2] == POOL -> state[2] = ATTACHED; source = 2; holder[2] = _pid }
#endif
        :: else
        fi;
        if
        :: source != NONE ->
            i = 0;
            do
            :: i < WORDS -> word(source, i) = FULL; i++
            :: else -> break
            od;
            i = 0;
            d_step { identity[source] = c; life[source] = c }
        :: else
        fi
    :: else
    fi
}

/* All the free blocks of one word. got: how many words' worth, as a mask; from w on. */
inline take_word(c, p, w)
{
    d_step {
        got = word(p, w);
        word(p, w) = 0;
        i = 0;
        do
        :: i < BITS ->
            if
            :: (got >> i) & 1 ->
                assert(!block(p, w, i) && life[p] == c); /* ONE OWNER */
                block(p, w, i) = true
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0
    }
}

/* Blocks of one word that this thread holds go back. */
inline give(c, p, w, mask)
{
#ifdef STATE_FIRST
    seen = state[p];
#endif
    d_step {
        i = 0;
        do
        :: i < BITS ->
            if
            :: ((mask) >> i) & 1 -> assert(block(p, w, i) && life[p] == c); block(p, w, i) = false
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0;
        assert((word(p, w) & (mask)) == 0);
        word(p, w) = word(p, w) | (mask);
        filled = (word(p, w) == FULL)
    };
#ifndef STATE_FIRST
    seen = state[p];
#endif
    if
    :: seen == UNLISTED || (seen == LISTED && filled) -> settle(c, p)
    :: else
    fi;
    filled = false;
    seen = POOL
}

proctype thread()
{
    byte c = 0, source = NONE, at = 0, ops = 0, i = 0, got = 0;
    /* Two batches of blocks that it will give back; `a` may go one block at a time. */
    byte a_page = 0, a_word = 0, a_class = 0, a = 0;
    byte b_page = 0, b_word = 0, b_class = 0, b = 0;
    bool yes = false, quiet = false, kept = false, filled = false, early = false;
    mtype seen = POOL;

    do
    :: ops < OPS && (a == 0 || b == 0) -> /* take the blocks of a word */
        ops++;
        if
        :: source == NONE ->
            if
            :: c = 0
            :: c = 1
            fi
        :: else
        fi;
        do
        :: got == 0 && source == NONE ->
            attach(c);
            at = 0;
            if
            :: source == NONE -> break /* no memory */
            :: else
            fi
        :: got == 0 && source != NONE && at < WORDS ->
            if
            :: word(source, at) != 0 -> take_word(c, source, at)
            :: else
            fi;
            at++
        :: got == 0 && source != NONE && at == WORDS ->
            let_go(c, source);
            at = 0;
            if
            :: !kept -> source = NONE
            :: else
            fi;
            kept = false
        :: else -> break
        od;
        if
        :: got != 0 && a == 0 -> d_step { a = got; a_page = source; a_word = at - 1; a_class = c; got = 0 }
        :: got != 0 && a != 0 -> d_step { b = got; b_page = source; b_word = at - 1; b_class = c; got = 0 }
        :: else
        fi
    :: a != 0 -> /* all of them, or the first */
        if
        :: got = a
#if BITS > 1
        :: (a & 1) != 0 && a != 1 -> got = 1
#endif
        fi;
        a = a & (FULL - got);
        give(a_class, a_page, a_word, got);
        d_step {
            got = 0;
            if
            :: a == 0 -> a_page = 0; a_word = 0; a_class = 0
            :: else
            fi
        }
    :: b != 0 ->
        d_step { got = b; b = 0 };
        give(b_class, b_page, b_word, got);
        d_step { got = 0; b_page = 0; b_word = 0; b_class = 0 }
#ifdef PASS
    :: d_step { a != 0 && mail == 0 -> /* somebody else will give them back */
        mail = a; mail_page = a_page; mail_word = a_word; mail_class = a_class;
        a = 0; a_page = 0; a_word = 0; a_class = 0 }
    :: d_step { a == 0 && mail != 0 ->
        a = mail; a_page = mail_page; a_word = mail_word; a_class = mail_class;
        mail = 0; mail_page = 0; mail_word = 0; mail_class = 0 }
    :: ops == OPS && a == 0 && b == 0 && source == NONE && mail == 0 -> break
#else
    :: ops == OPS && a == 0 && b == 0 && source == NONE -> break
#endif
    :: source != NONE -> /* let go of the page for good, as a thread does that ends */
        d_step { state[source] = UNLISTED; holder[source] = 0 };
        settle(c, source);
        d_step { source = NONE; at = 0; c = 0 }
    od;
    done++
}

#ifdef TRIM
bool trimmed;

active proctype trimmer()
{
    byte p = 0, i = 0, c = 0;
    bool yes = false;
    do
    :: c < CLASSES ->
        p = 0;
        do
        :: p < PAGES ->
            lock(c);
            if
            :: in_list[p * CLASSES + c] ->
                all_free(p);
                if
                :: yes -> disown(c, p)
                :: else
                fi
            :: else -> yes = false
            fi;
            unlock(c);
            if
            :: yes -> retire(p)
            :: else
            fi;
            yes = false;
            p++
        :: else -> break
        od;
        c++
    :: else -> break
    od;
    trimmed = true
}
#endif

init
{
    byte p = 0, w = 0, free_words = 0, all_words = 0;
    d_step {
        do
        :: p < PAGES -> state[p] = POOL; identity[p] = NONE; life[p] = NONE; p++
        :: else -> break
        od;
        p = 0
    };
    atomic {
        run thread();
        run thread();
#if THREADS > 2
        run thread();
#endif
    };
    done == THREADS;
#ifdef TRIM
    trimmed;
#endif
    /* NO LOSS: everybody is quiet, no block is out. */
    d_step {
        do
        :: p < PAGES ->
            assert(holder[p] == 0);
            if
            :: state[p] == POOL -> assert(!in_list[p * CLASSES] && !in_list[p * CLASSES + 1])
            :: else ->
                free_words = 0;
                w = 0;
                do
                :: w < WORDS -> free_words = free_words + (word(p, w) == FULL); w++
                :: else -> break
                od;
                assert(free_words == WORDS); /* no block is out, so none may be missing */
                assert(state[p] == LISTED && in_list[p * CLASSES + identity[p]]);
                assert(identity[p] == life[p])
            fi;
            p++
        :: else -> break
        od
    }
}
