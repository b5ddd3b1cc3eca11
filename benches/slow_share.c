/*
 * A file system that shows a directory, late: every operation sleeps before it is done. For benches/slow_share.sh.
 *
 *   cc -O2 -o slow_share benches/slow_share.c $(pkg-config --cflags --libs fuse3)
 *   slow_share DIRECTORY MOUNTPOINT MICROSECONDS        (in the foreground; ends when it is unmounted)
 *
 * Nothing is cached by the kernel (entries and attributes are valid for 0 seconds), and as many operations as there are
 * requests run at once. SIGUSR1 prints what was asked since the last time, one line, and begins anew.
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 12)
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#define OPERATIONS(each)                                                                                                        \
    each(lookup) each(getattr) each(setattr) each(readlink) each(mknod) each(mkdir) each(symlink) each(unlink) each(rmdir)        \
    each(rename) each(link) each(create) each(open) each(read) each(write) each(flush) each(release) each(fsync)                 \
    each(opendir) each(readdir) each(releasedir) each(statfs) each(getxattr) each(listxattr) each(setxattr) each(removexattr)    \
    each(lseek)

#define each(name) op_##name,
enum operation { OPERATIONS(each) OPERATION_COUNT };
#undef each
#define each(name) #name,
static const char *const names[] = {OPERATIONS(each)};
#undef each

static atomic_ulong counts[OPERATION_COUNT];
static useconds_t delay;

static void wait_for(enum operation operation)
{
    atomic_fetch_add(&counts[operation], 1);
    usleep(delay);
}

/* What the kernel knows: names below their directories. Handles are opened for each operation, so that few are enough. */
struct node {
    struct node *next;
    struct node *parent;
    char *name;
    unsigned long lookups;
    unsigned long children;
};

#define BUCKETS 262144
static struct node *buckets[BUCKETS];
static struct node root;
static int root_fd;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct node *node_of(fuse_ino_t ino)
{
    return ino == FUSE_ROOT_ID ? &root : (struct node *)(uintptr_t)ino;
}

static struct node **bucket_of(struct node *parent, const char *name)
{
    unsigned long hash = (uintptr_t)parent / sizeof *parent;
    for (; *name; name++)
        hash = hash * 31 + (unsigned char)*name;
    return &buckets[hash % BUCKETS];
}

/* With the lock held. */
static struct node *named(struct node *parent, const char *name)
{
    struct node *node = *bucket_of(parent, name);
    while (node && !(node->parent == parent && strcmp(node->name, name) == 0))
        node = node->next;
    return node;
}

static void take_out(struct node *node)
{
    struct node **at = bucket_of(node->parent, node->name);
    while (*at && *at != node)
        at = &(*at)->next;
    if (*at)
        *at = node->next;
}

static void put_in(struct node *node)
{
    struct node **bucket = bucket_of(node->parent, node->name);
    node->next = *bucket;
    *bucket = node;
}

static void release_node(struct node *node)
{
    while (node != &root && node->lookups == 0 && node->children == 0) {
        struct node *parent = node->parent;
        take_out(node);
        free(node->name);
        free(node);
        parent->children--;
        node = parent;
    }
}

/* A handle of a node, for one operation. */
static int hold(fuse_ino_t ino)
{
    char path[PATH_MAX];
    size_t at = sizeof path - 1;
    path[at] = 0;
    pthread_mutex_lock(&lock);
    for (struct node *node = node_of(ino); node != &root; node = node->parent) {
        size_t len = strlen(node->name);
        if (len + 1 > at) {
            pthread_mutex_unlock(&lock);
            errno = ENAMETOOLONG;
            return -1;
        }
        if (path[at])
            path[--at] = '/';
        at -= len;
        memcpy(path + at, node->name, len);
    }
    pthread_mutex_unlock(&lock);
    return openat(root_fd, path[at] ? path + at : ".", O_PATH | O_NOFOLLOW);
}

/* Closes it and keeps the error of what was done with it. */
static void let_go(int fd)
{
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
}

static int find(fuse_ino_t parent_ino, int directory, const char *name, struct fuse_entry_param *entry)
{
    memset(entry, 0, sizeof *entry);
    if (fstatat(directory, name, &entry->attr, AT_SYMLINK_NOFOLLOW) < 0)
        return errno;
    struct node *parent = node_of(parent_ino);
    pthread_mutex_lock(&lock);
    struct node *node = named(parent, name);
    if (!node) {
        node = calloc(1, sizeof *node);
        node->name = strdup(name);
        node->parent = parent;
        parent->children++;
        put_in(node);
    }
    node->lookups++;
    pthread_mutex_unlock(&lock);
    entry->ino = (uintptr_t)node;
    return 0;
}

static void forget_one(fuse_ino_t ino, uint64_t count)
{
    struct node *node = node_of(ino);
    if (node == &root)
        return;
    pthread_mutex_lock(&lock);
    node->lookups -= count;
    release_node(node);
    pthread_mutex_unlock(&lock);
}

static void slow_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    forget_one(ino, count);
    fuse_reply_none(req);
}

static void slow_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t at = 0; at < count; at++)
        forget_one(forgets[at].ino, forgets[at].nlookup);
    fuse_reply_none(req);
}

static void reply_done(fuse_req_t req, int result)
{
    fuse_reply_err(req, result < 0 ? errno : 0);
}

static void reply_entry(fuse_req_t req, fuse_ino_t parent, int directory, const char *name)
{
    struct fuse_entry_param entry;
    int error = find(parent, directory, name, &entry);
    if (error)
        fuse_reply_err(req, error);
    else
        fuse_reply_entry(req, &entry);
}

static void slow_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    wait_for(op_lookup);
    int directory = hold(parent);
    reply_entry(req, parent, directory, name);
    let_go(directory);
}

static void reply_attr(fuse_req_t req, int fd)
{
    struct stat stat;
    if (fstatat(fd, "", &stat, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_attr(req, &stat, 0);
}

static void slow_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
    wait_for(op_getattr);
    int fd = file ? (int)file->fh : hold(ino);
    reply_attr(req, fd);
    if (!file)
        let_go(fd);
}

static void slow_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int valid, struct fuse_file_info *file)
{
    char path[64];
    wait_for(op_setattr);
    int fd = file ? (int)file->fh : hold(ino);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int failed = 0;
    if (valid & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))
        failed |= fchownat(fd, "", valid & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1,
                           valid & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0;
    if (!failed && (valid & FUSE_SET_ATTR_MODE))
        failed |= chmod(path, attr->st_mode) < 0;
    if (!failed && (valid & FUSE_SET_ATTR_SIZE))
        failed |= truncate(path, attr->st_size) < 0;
    if (!failed && (valid & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME))) {
        struct timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
        if (valid & FUSE_SET_ATTR_ATIME)
            times[0] = attr->st_atim;
        if (valid & FUSE_SET_ATTR_ATIME_NOW)
            times[0].tv_nsec = UTIME_NOW;
        if (valid & FUSE_SET_ATTR_MTIME)
            times[1] = attr->st_mtim;
        if (valid & FUSE_SET_ATTR_MTIME_NOW)
            times[1].tv_nsec = UTIME_NOW;
        failed |= utimensat(AT_FDCWD, path, times, 0) < 0;
    }
    if (failed)
        fuse_reply_err(req, errno);
    else
        reply_attr(req, fd);
    if (!file)
        let_go(fd);
}

static void slow_readlink(fuse_req_t req, fuse_ino_t ino)
{
    char target[PATH_MAX + 1];
    wait_for(op_readlink);
    int fd = hold(ino);
    ssize_t len = readlinkat(fd, "", target, PATH_MAX);
    let_go(fd);
    if (len < 0) {
        fuse_reply_err(req, errno);
        return;
    }
    target[len] = 0;
    fuse_reply_readlink(req, target);
}

static void made(fuse_req_t req, int result, fuse_ino_t parent, int directory, const char *name)
{
    if (result < 0)
        fuse_reply_err(req, errno);
    else
        reply_entry(req, parent, directory, name);
    let_go(directory);
}

static void slow_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t device)
{
    wait_for(op_mknod);
    int directory = hold(parent);
    made(req, mknodat(directory, name, mode, device), parent, directory, name);
}

static void slow_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    wait_for(op_mkdir);
    int directory = hold(parent);
    made(req, mkdirat(directory, name, mode), parent, directory, name);
}

static void slow_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    wait_for(op_symlink);
    int directory = hold(parent);
    made(req, symlinkat(target, directory, name), parent, directory, name);
}

static void slow_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    char path[64];
    wait_for(op_link);
    int directory = hold(parent), fd = hold(ino);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int result = linkat(AT_FDCWD, path, directory, name, AT_SYMLINK_FOLLOW);
    let_go(fd);
    made(req, result, parent, directory, name);
}

static void slow_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    wait_for(op_unlink);
    int directory = hold(parent);
    reply_done(req, unlinkat(directory, name, 0));
    let_go(directory);
}

static void slow_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    wait_for(op_rmdir);
    int directory = hold(parent);
    reply_done(req, unlinkat(directory, name, AT_REMOVEDIR));
    let_go(directory);
}

static void slow_rename(fuse_req_t req, fuse_ino_t from, const char *old, fuse_ino_t to, const char *new, unsigned int flags)
{
    wait_for(op_rename);
    int source = hold(from), target = hold(to);
    int result = renameat2(source, old, target, new, flags);
    int error = errno;
    if (result == 0) {
        pthread_mutex_lock(&lock);
        struct node *node = named(node_of(from), old), *gone = named(node_of(to), new);
        if (gone)
            take_out(gone);
        if (node) {
            struct node *parent = node->parent;
            take_out(node);
            free(node->name);
            node->name = strdup(new);
            node->parent = node_of(to);
            node->parent->children++;
            put_in(node);
            parent->children--;
        }
        pthread_mutex_unlock(&lock);
    }
    let_go(source);
    let_go(target);
    fuse_reply_err(req, result < 0 ? error : 0);
}

static void slow_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *file)
{
    struct fuse_entry_param entry;
    wait_for(op_create);
    int directory = hold(parent);
    int fd = openat(directory, name, (file->flags | O_CREAT) & ~O_NOFOLLOW, mode);
    int error = fd < 0 ? errno : find(parent, directory, name, &entry);
    let_go(directory);
    if (error) {
        if (fd >= 0)
            close(fd);
        fuse_reply_err(req, error);
        return;
    }
    file->fh = fd;
    fuse_reply_create(req, &entry, file);
}

/* Opens by way of /proc: the handle that stands for the node can do nothing by itself. */
static int open_again(fuse_ino_t ino, int flags)
{
    char path[64];
    int fd = hold(ino);
    if (fd < 0)
        return -1;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int opened = open(path, flags & ~(O_NOFOLLOW | O_CREAT | O_EXCL));
    let_go(fd);
    return opened;
}

static void slow_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
    wait_for(op_open);
    int fd = open_again(ino, file->flags);
    if (fd < 0) {
        fuse_reply_err(req, errno);
        return;
    }
    file->fh = fd;
    fuse_reply_open(req, file);
}

static void slow_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *file)
{
    (void)ino;
    wait_for(op_read);
    struct fuse_bufvec buffer = FUSE_BUFVEC_INIT(size);
    buffer.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
    buffer.buf[0].fd = file->fh;
    buffer.buf[0].pos = offset;
    fuse_reply_data(req, &buffer, 0);
}

static void slow_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size, off_t offset, struct fuse_file_info *file)
{
    (void)ino;
    wait_for(op_write);
    ssize_t len = pwrite(file->fh, bytes, size, offset);
    if (len < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_write(req, len);
}

static void slow_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
    (void)ino, (void)file;
    wait_for(op_flush);
    fuse_reply_err(req, 0);
}

static void slow_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
    (void)ino;
    wait_for(op_release);
    close(file->fh);
    fuse_reply_err(req, 0);
}

static void slow_fsync(fuse_req_t req, fuse_ino_t ino, int only_data, struct fuse_file_info *file)
{
    (void)ino, (void)only_data;
    wait_for(op_fsync);
    reply_done(req, fsync(file->fh));
}

static void slow_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *file)
{
    (void)ino;
    wait_for(op_lseek);
    off_t at = lseek(file->fh, offset, whence);
    if (at < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_lseek(req, at);
}

static void slow_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
    wait_for(op_opendir);
    int fd = open_again(ino, O_RDONLY | O_DIRECTORY);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (!directory) {
        fuse_reply_err(req, errno);
        return;
    }
    file->fh = (uintptr_t)directory;
    fuse_reply_open(req, file);
}

static void slow_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *file)
{
    (void)ino;
    DIR *directory = (DIR *)(uintptr_t)file->fh;
    char *buffer = malloc(size);
    size_t used = 0;
    struct dirent *entry;
    wait_for(op_readdir);
    seekdir(directory, offset);
    while ((entry = readdir(directory))) {
        struct stat stat = {.st_ino = entry->d_ino, .st_mode = entry->d_type << 12};
        size_t len = fuse_add_direntry(req, buffer + used, size - used, entry->d_name, &stat, entry->d_off);
        if (len > size - used)
            break;
        used += len;
    }
    fuse_reply_buf(req, buffer, used);
    free(buffer);
}

static void slow_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
    (void)ino;
    wait_for(op_releasedir);
    closedir((DIR *)(uintptr_t)file->fh);
    fuse_reply_err(req, 0);
}

static void slow_statfs(fuse_req_t req, fuse_ino_t ino)
{
    (void)ino;
    struct statvfs stat;
    wait_for(op_statfs);
    if (fstatvfs(root_fd, &stat) < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_statfs(req, &stat);
}

static void reply_value(fuse_req_t req, ssize_t len, const char *value, size_t size)
{
    if (len < 0)
        fuse_reply_err(req, errno);
    else if (size == 0)
        fuse_reply_xattr(req, len);
    else
        fuse_reply_buf(req, value, len);
}

#define BY_PATH(call)                                                                                                           \
    int fd = hold(ino);                                                                                                         \
    char path[64];                                                                                                              \
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);                                                                        \
    ssize_t result = call;                                                                                                      \
    let_go(fd)

static void slow_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    char value[65536];
    wait_for(op_getxattr);
    BY_PATH(getxattr(path, name, value, size < sizeof value ? size : sizeof value));
    reply_value(req, result, value, size);
}

static void slow_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    char value[65536];
    wait_for(op_listxattr);
    BY_PATH(listxattr(path, value, size < sizeof value ? size : sizeof value));
    reply_value(req, result, value, size);
}

static void slow_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
    wait_for(op_setxattr);
    BY_PATH(setxattr(path, name, value, size, flags));
    reply_done(req, result);
}

static void slow_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    wait_for(op_removexattr);
    BY_PATH(removexattr(path, name));
    reply_done(req, result);
}

static void slow_init(void *data, struct fuse_conn_info *connection)
{
    (void)data;
    /* A listing brings names only, as over SMB1, NFSv3 without READDIRPLUS or most object stores. */
    connection->want &= ~(FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO);
    connection->max_background = 256;
    connection->congestion_threshold = 256;
}

static const struct fuse_lowlevel_ops operations = {
    .init = slow_init,
    .forget = slow_forget,
    .forget_multi = slow_forget_multi,
#define each(name) .name = slow_##name,
    OPERATIONS(each)
#undef each
};

static void *print_counts(void *set)
{
    int signal;
    while (sigwait(set, &signal) == 0) {
        unsigned long all = 0;
        for (int at = 0; at < OPERATION_COUNT; at++) {
            unsigned long count = atomic_exchange(&counts[at], 0);
            all += count;
            if (count)
                printf("%s %lu, ", names[at], count);
        }
        printf("together %lu\n", all);
        fflush(stdout);
    }
    return NULL;
}

static ssize_t read_request(int fd, void *buffer, size_t len, void *data)
{
    (void)data;
    return read(fd, buffer, len);
}

/* The first reply is that to INIT. libfuse before 3.17 forgets to say in it that look-ups in one directory may run at once. */
static ssize_t write_reply(int fd, struct iovec *parts, int count, void *data)
{
    static atomic_bool replied;
    (void)data;
    if (!atomic_exchange(&replied, true) && count == 2 && parts[1].iov_len >= sizeof(struct fuse_init_out))
        ((struct fuse_init_out *)parts[1].iov_base)->flags |= FUSE_PARALLEL_DIROPS;
    return writev(fd, parts, count);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: %s DIRECTORY MOUNTPOINT MICROSECONDS\n", argv[0]);
        return 1;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    umask(0);
    delay = strtoul(argv[3], NULL, 10);
    root_fd = open(argv[1], O_PATH | O_DIRECTORY);
    if (root_fd < 0) {
        perror(argv[1]);
        return 1;
    }
    static sigset_t set;
    pthread_t thread;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_create(&thread, NULL, print_counts, &set);

    struct fuse_args args = FUSE_ARGS_INIT(1, argv);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    static const struct fuse_custom_io io = {.read = read_request, .writev = write_reply};
    int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    char mount_options[128];
    snprintf(mount_options, sizeof mount_options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
    if (!session || device < 0 || fuse_session_custom_io(session, &io, device) != 0 ||
        mount("slow_share", argv[2], "fuse.slow_share", MS_NOSUID | MS_NODEV, mount_options) < 0) {
        perror(argv[2]);
        return 1;
    }
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    fuse_loop_cfg_set_max_threads(config, 256);
    fuse_loop_cfg_set_idle_threads(config, 256);
    int result = fuse_session_loop_mt(session, config);
    fuse_session_destroy(session);
    return result;
}
