/* A program that shows pictures on a display, for a guest that has nothing but a kernel: DRM's own calls and no library.
 *
 *     drm_program serve CARD PIXELS SOCKET     opens /dev/dri/CARD and obeys, until it is told to quit
 *     drm_program tell SOCKET WORD...          one command; prints its answer, and fails as it failed
 *
 * The pixels of all that is drawn come from the file PIXELS, four bytes each (blue, green, red, and what is transparent
 * in a pointer), from the byte FROM of it on. HEAD is the number of a connector and of its CRTC, from 0 on:
 *
 *     modes HEAD                       the sizes that can be set, WxH each
 *     show HEAD WxH FROM               sets this mode, with a picture
 *     draw HEAD WxH+X+Y FROM           redraws this part of the picture (DIRTYFB)
 *     flip HEAD FROM                   another picture, when the display says that it is there (PAGE_FLIP)
 *     frames HEAD MILLISECONDS         flips to a copy of it and back for so long: how often, and in how many microseconds
 *     blank HEAD, unblank HEAD         DPMS, off and on
 *     off HEAD                         no mode at all; the picture is forgotten
 *     pointer HEAD WxH FROM            a cursor
 *     move HEAD X Y                    its place
 *     hide HEAD                        no cursor
 *     clear WxH COLOUR                 3D: the GPU clears a texture (AARRGGBB) and gives it back: how many of its pixels
 *                                      are of which colour
 *     quit
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "drm_kernel.h"

enum { HEADS = 16, MODES = 128, PROPERTIES = 64, WORDS = 8, PIXEL = 4 };

/* --- state ----------------------------------------------------------------------------------------------------- */

struct buffer { uint32_t handle, pitch, fb; uint64_t size; unsigned char *bytes; };
struct head {
    uint32_t connector, crtc;
    struct mode mode;
    struct buffer shown, pointer;
    uint32_t width, height;
};

static struct head heads[HEADS];
static uint32_t head_count;
static int card;
static const unsigned char *pixels; /* what is drawn is taken from here */
static size_t pixels_size;
static char answer[1 << 16];
static jmp_buf refused;

static void say(const char *form, ...)
{
    size_t said = strlen(answer);
    va_list values;
    va_start(values, form);
    vsnprintf(answer + said, sizeof answer - said, form, values);
    va_end(values);
}

static void checked(int good, const char *what)
{
    if (good)
        return;
    answer[0] = 0;
    say("%s: %s\n", what, strerror(errno));
    longjmp(refused, 1);
}

static void expected(int good, const char *what)
{
    errno = EINVAL;
    checked(good, what);
}

static void call(unsigned long number, void *argument, const char *what)
{
    checked(ioctl(card, number, argument) == 0, what);
}

/* --- what the words of a command say --------------------------------------------------------------------------- */

static uint32_t number(const char *word)
{
    char *end;
    expected(word != NULL, "a number is missing");
    uint32_t value = strtol(word, &end, 0);
    expected(*word && !*end, word);
    return value;
}

static struct head *head_of(const char *word)
{
    uint32_t at = number(word);
    expected(at < head_count, "no such head");
    return &heads[at];
}

static struct head *shown_head_of(const char *word)
{
    struct head *head = head_of(word);
    expected(head->shown.fb != 0, "nothing is shown there");
    return head;
}

static void size_of(const char *word, uint32_t *width, uint32_t *height)
{
    expected(word && sscanf(word, "%ux%u", width, height) == 2, "expected WxH");
}

static const unsigned char *source(const char *word, uint32_t width, uint32_t height)
{
    uint32_t from = number(word);
    expected(from + (uint64_t)PIXEL * width * height <= pixels_size, "the file of pixels ends before");
    return pixels + from;
}

/* --- buffers --------------------------------------------------------------------------------------------------- */

static struct buffer new_buffer(uint32_t width, uint32_t height)
{
    struct dumb dumb = { .width = width, .height = height, .bpp = 8 * PIXEL };
    call(CREATE_DUMB, &dumb, "creating a dumb buffer");
    struct dumb_map map = { .handle = dumb.handle };
    call(MAP_DUMB, &map, "the place of a dumb buffer");
    struct buffer made = { .handle = dumb.handle, .pitch = dumb.pitch, .size = dumb.size };
    made.bytes = mmap(NULL, made.size, PROT_READ | PROT_WRITE, MAP_SHARED, card, map.offset);
    checked(made.bytes != MAP_FAILED, "mapping a dumb buffer");
    return made;
}

static struct buffer new_picture(uint32_t width, uint32_t height, const unsigned char *from)
{
    struct buffer made = new_buffer(width, height);
    for (uint32_t row = 0; row < height; row++)
        memcpy(made.bytes + (size_t)row * made.pitch, from + (size_t)PIXEL * width * row, PIXEL * width);
    return made;
}

static void add_fb(struct buffer *picture, uint32_t width, uint32_t height)
{
    struct fb fb = { 0, width, height, picture->pitch, 8 * PIXEL, 24, picture->handle };
    call(ADD_FB, &fb, "adding a frame buffer");
    picture->fb = fb.id;
}

static void drop(struct buffer *buffer)
{
    if (buffer->fb)
        call(REMOVE_FB, &buffer->fb, "removing a frame buffer");
    if (buffer->bytes) {
        munmap(buffer->bytes, buffer->size);
        call(DESTROY_DUMB, &buffer->handle, "destroying a dumb buffer");
    }
    memset(buffer, 0, sizeof *buffer);
}

/* --- the display ----------------------------------------------------------------------------------------------- */

static void find_heads(void)
{
    uint32_t crtcs[HEADS], connectors[HEADS], encoders[HEADS];
    struct resources found = { 0, (uintptr_t)crtcs, (uintptr_t)connectors, (uintptr_t)encoders };
    found.crtc_count = found.connector_count = found.encoder_count = HEADS;
    call(GET_RESOURCES, &found, "what the card has");
    head_count = found.crtc_count < found.connector_count ? found.crtc_count : found.connector_count;
    expected(head_count <= HEADS, "too many heads");
    for (uint32_t at = 0; at < head_count; at++) {
        heads[at].crtc = crtcs[at];
        heads[at].connector = connectors[at];
    }
}

static struct connector look(struct head *head, struct mode *modes)
{
    /* The first call lets the driver look for a monitor, the second takes the list. */
    struct connector seen = { .id = head->connector };
    call(GET_CONNECTOR, &seen, "looking at the connector");
    seen = (struct connector){ .modes = (uintptr_t)modes, .mode_count = MODES, .id = head->connector };
    call(GET_CONNECTOR, &seen, "the connector's modes");
    expected(seen.mode_count <= MODES, "too many modes");
    return seen;
}

static struct mode mode_of(struct head *head, uint32_t width, uint32_t height)
{
    static struct mode modes[MODES];
    struct connector seen = look(head, modes);
    for (uint32_t at = 0; at < seen.mode_count; at++)
        if (modes[at].width == width && modes[at].height == height)
            return modes[at];
    expected(0, "the connector has no such mode");
    return modes[0];
}

static void set_crtc(struct head *head, uint32_t fb)
{
    struct crtc wanted = { (uintptr_t)&head->connector, 1, head->crtc, fb, .mode_valid = 1, .mode = head->mode };
    call(SET_CRTC, &wanted, "setting the mode");
}

static void redraw(struct head *head, struct clip *clip)
{
    struct dirty dirty = { .fb = head->shown.fb, .clip_count = clip != NULL, .clips = (uintptr_t)clip };
    call(DIRTY_FB, &dirty, "telling what was redrawn");
}

static uint32_t property_named(struct head *head, const char *name)
{
    uint32_t ids[PROPERTIES];
    uint64_t values[PROPERTIES];
    struct connector seen = { .id = head->connector, .property_count = PROPERTIES };
    struct mode unused;
    seen.properties = (uintptr_t)ids;
    seen.values = (uintptr_t)values;
    seen.modes = (uintptr_t)&unused; /* with room for one the driver does not look for a monitor anew */
    seen.mode_count = 1;
    call(GET_CONNECTOR, &seen, "the connector's properties");
    for (uint32_t at = 0; at < seen.property_count && at < PROPERTIES; at++) {
        struct property property = { .id = ids[at] };
        call(GET_PROPERTY, &property, "a property");
        if (!strcmp(property.name, name))
            return ids[at];
    }
    expected(0, "the connector has no such property");
    return 0;
}

static void set_power(struct head *head, uint64_t value)
{
    struct set_property wanted = { value, property_named(head, "DPMS"), head->connector };
    call(SET_PROPERTY, &wanted, "setting the power");
}

static void set_cursor(struct head *head, struct cursor wanted)
{
    wanted.crtc = head->crtc;
    call(CURSOR, &wanted, "setting the cursor");
}

static uint64_t microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000ULL + now.tv_nsec / 1000;
}

#include "drm_3d.h"

/* --- the commands ---------------------------------------------------------------------------------------------- */

static void modes(char **words)
{
    static struct mode found[MODES];
    struct connector seen = look(head_of(words[0]), found);
    say("%s\n", seen.connection == CONNECTED ? "connected" : "disconnected");
    for (uint32_t at = 0; at < seen.mode_count; at++)
        say("%ux%u\n", found[at].width, found[at].height);
}

static void show(char **words)
{
    struct head *head = head_of(words[0]);
    uint32_t width, height;
    size_of(words[1], &width, &height);
    const unsigned char *from = source(words[2], width, height);
    head->mode = mode_of(head, width, height);
    struct buffer old = head->shown;
    head->shown = new_picture(width, height, from);
    add_fb(&head->shown, width, height);
    set_crtc(head, head->shown.fb);
    head->width = width;
    head->height = height;
    drop(&old);
}

static void draw(char **words)
{
    struct head *head = shown_head_of(words[0]);
    uint32_t width, height, x, y;
    expected(words[1] && sscanf(words[1], "%ux%u+%u+%u", &width, &height, &x, &y) == 4, "expected WxH+X+Y");
    expected(x + width <= head->width && y + height <= head->height, "not within the picture");
    const unsigned char *from = source(words[2], width, height);
    for (uint32_t row = 0; row < height; row++) {
        unsigned char *to = head->shown.bytes + (size_t)(y + row) * head->shown.pitch + PIXEL * x;
        memcpy(to, from + (size_t)PIXEL * width * row, PIXEL * width);
    }
    struct clip clip = { x, y, x + width, y + height };
    redraw(head, &clip);
}

/* Returns when the display has taken it over. */
static void flip_to(struct head *head, struct buffer *picture)
{
    char event[256];
    struct flip wanted = { head->crtc, picture->fb, FLIP_EVENT };
    call(PAGE_FLIP, &wanted, "flipping");
    checked(read(card, event, sizeof event) > 0, "waiting for the flip");
    struct buffer old = head->shown;
    head->shown = *picture;
    *picture = old;
}

static void flip(char **words)
{
    struct head *head = shown_head_of(words[0]);
    struct buffer other = new_picture(head->width, head->height, source(words[1], head->width, head->height));
    add_fb(&other, head->width, head->height);
    flip_to(head, &other);
    drop(&other);
}

static void frames(char **words)
{
    struct head *head = shown_head_of(words[0]);
    uint64_t enough = 1000ULL * number(words[1]);
    struct buffer other = new_buffer(head->width, head->height);
    memcpy(other.bytes, head->shown.bytes, other.size);
    add_fb(&other, head->width, head->height);
    uint64_t start = microseconds();
    unsigned long count = 0;
    for (; microseconds() - start < enough; count++)
        flip_to(head, &other);
    say("%lu %lu\n", count, (unsigned long)(microseconds() - start));
    drop(&other);
}

static void blank(char **words) { set_power(shown_head_of(words[0]), DPMS_OFF); }

static void unblank(char **words) { set_power(shown_head_of(words[0]), DPMS_ON); }

static void off(char **words)
{
    struct head *head = head_of(words[0]);
    struct crtc wanted = { .id = head->crtc };
    call(SET_CRTC, &wanted, "switching off");
    drop(&head->shown);
}

static void pointer(char **words)
{
    struct head *head = head_of(words[0]);
    struct buffer old = head->pointer;
    uint32_t width, height;
    size_of(words[1], &width, &height);
    head->pointer = new_picture(width, height, source(words[2], width, height));
    set_cursor(head, (struct cursor){ .flags = CURSOR_BO, .width = width, .height = height,
                                      .handle = head->pointer.handle });
    drop(&old);
}

static void move(char **words)
{
    set_cursor(head_of(words[0]), (struct cursor){ .flags = CURSOR_MOVE, .x = number(words[1]), .y = number(words[2]) });
}

static void hide(char **words)
{
    struct head *head = head_of(words[0]);
    set_cursor(head, (struct cursor){ .flags = CURSOR_BO });
    drop(&head->pointer);
}

static void quit(char **words)
{
    (void)words;
    exit(0);
}

static const struct { const char *name; void (*obey)(char **words); } commands[] = {
    { "modes", modes }, { "show", show },       { "draw", draw }, { "flip", flip }, { "frames", frames },
    { "blank", blank }, { "unblank", unblank }, { "off", off },   { "move", move }, { "pointer", pointer },
    { "hide", hide },   { "clear", clear },     { "quit", quit },
};

static void obey(char *line)
{
    char *words[WORDS] = { strtok(line, " \n") };
    for (int at = 1; at < WORDS - 1 && words[at - 1]; at++)
        words[at] = strtok(NULL, " \n");
    for (size_t at = 0; words[0] && at < sizeof commands / sizeof *commands; at++)
        if (!strcmp(words[0], commands[at].name)) {
            commands[at].obey(words + 1);
            return;
        }
    expected(0, "no such command");
}

/* --- server and client ----------------------------------------------------------------------------------------- */

static int stop(const char *what)
{
    fprintf(stderr, "drm_program: %s: %s\n", what, strerror(errno));
    return 1;
}

static struct sockaddr_un place(const char *path)
{
    struct sockaddr_un address = { AF_UNIX };
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    return address;
}

/* An answer's first byte says whether the command was obeyed. */
static void serve_one(int client)
{
    static char line[512];
    ssize_t size = read(client, line, sizeof line - 1);
    line[size > 0 ? size : 0] = 0;
    answer[0] = 0;
    int good = !setjmp(refused);
    if (good)
        obey(line);
    if (write(client, good ? "+" : "-", 1) == 1 && write(client, answer, strlen(answer)) < 0)
        stop("answering");
    close(client);
}

static int open_pixels(const char *path)
{
    struct stat about;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &about))
        return -1;
    pixels_size = about.st_size;
    pixels = mmap(NULL, pixels_size, PROT_READ, MAP_PRIVATE, fd, 0);
    return pixels == MAP_FAILED ? -1 : 0;
}

static int serve(const char *name, const char *path, const char *socket_path)
{
    char device[64];
    struct sockaddr_un address = place(socket_path);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), client;
    snprintf(device, sizeof device, "/dev/dri/%s", name);
    card = open(device, O_RDWR);
    if (card < 0 || open_pixels(path))
        return stop(card < 0 ? device : path);
    unlink(socket_path);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4))
        return stop(socket_path);
    if (setjmp(refused)) {
        fprintf(stderr, "drm_program: %s", answer);
        return 1;
    }
    find_heads();
    if (daemon(0, 0)) /* whoever started it may tell from now on */
        return stop("going on in the background");
    while ((client = accept(listener, NULL, NULL)) >= 0)
        serve_one(client);
    return 1;
}

static int tell(const char *socket_path, char **words, int count)
{
    struct sockaddr_un address = place(socket_path);
    int server = socket(AF_UNIX, SOCK_STREAM, 0);
    char line[512] = "";
    for (int at = 0; at < count; at++) {
        strncat(line, words[at], sizeof line - strlen(line) - 2);
        strcat(line, at + 1 < count ? " " : "\n");
    }
    if (connect(server, (struct sockaddr *)&address, sizeof address) || write(server, line, strlen(line)) < 0)
        return stop(socket_path);
    size_t got = 0;
    for (ssize_t part; (part = read(server, answer + got, sizeof answer - 1 - got)) > 0;)
        got += part;
    if (got)
        fputs(answer + 1, answer[0] == '+' ? stdout : stderr);
    return answer[0] != '+' && strcmp(words[0], "quit");
}

int main(int count, char **words)
{
    if (count == 5 && !strcmp(words[1], "serve"))
        return serve(words[2], words[3], words[4]);
    if (count >= 4 && !strcmp(words[1], "tell"))
        return tell(words[2], words + 3, count - 3);
    fprintf(stderr, "usage: drm_program serve CARD PIXELS SOCKET | tell SOCKET WORD...\n");
    return 2;
}
