/* Counts the instructions that a guest of QEMU executes; a marker system call writes the count so far to QEMU's log.
 *
 * Debian packages no header of QEMU's plugin interface. What is used of its version 1, which QEMU promises to keep, is
 * declared here after docs/devel/tcg-plugins. Nothing of the C library is used, so that any one will do. */
#include <stddef.h>
#include <stdint.h>

typedef uint64_t plugin_id;
struct block;

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int, void *, uint64_t);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id,
                                                 void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                          uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
extern void qemu_plugin_outs(const char *);

#define EXPORTED __attribute__((visibility("default")))

/* As in onnxprune/targets/worker.py: no kernel knows this system call. */
static const int64_t MARKER = 0x6f70;
static const int ADD = 0;

EXPORTED int qemu_plugin_version = 1;
static uint64_t executed;

static void count_block(plugin_id id, struct block *block) {
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD, &executed, qemu_plugin_tb_n_insns(block));
}

static void tell_count(plugin_id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                       uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    (void)id, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number != MARKER) {
        return;
    }
    char text[24];
    char *at = text + sizeof text;
    *--at = 0;
    *--at = '\n';
    uint64_t left = executed;
    do {
        *--at = (char)('0' + left % 10);
    } while (left /= 10);
    qemu_plugin_outs(at);
}

EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int arguments, char **values) {
    (void)info, (void)arguments, (void)values;
    qemu_plugin_register_vcpu_tb_trans_cb(id, count_block);
    qemu_plugin_register_vcpu_syscall_cb(id, tell_count);
    return 0;
}
