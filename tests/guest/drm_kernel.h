/* What the programs here say to DRM and to virtio-gpu's driver: the kernel's user-space ABI.
 *
 * Its source is include/uapi/drm/drm.h, drm_mode.h and virtgpu_drm.h; the numbers of the 3D commands are of the virgl
 * protocol (virglrenderer, src/virgl_protocol.h). The headers themselves would be a library's packages.
 */
#include <stdint.h>
#include <sys/ioctl.h>

struct resources {
    uint64_t fbs, crtcs, connectors, encoders;
    uint32_t fb_count, crtc_count, connector_count, encoder_count, min_width, max_width, min_height, max_height;
};
struct mode {
    uint32_t clock;
    uint16_t width, hsync_start, hsync_end, htotal, hskew, height, vsync_start, vsync_end, vtotal, vscan;
    uint32_t refresh, flags, type;
    char name[32];
};
struct connector {
    uint64_t encoders, modes, properties, values;
    uint32_t mode_count, property_count, encoder_count, encoder, id, type, type_id, connection, mm_width, mm_height;
    uint32_t subpixel, pad;
};
struct crtc {
    uint64_t connectors;
    uint32_t connector_count, id, fb, x, y, gamma_size, mode_valid;
    struct mode mode;
};
struct dumb { uint32_t height, width, bpp, flags, handle, pitch; uint64_t size; };
struct dumb_map { uint32_t handle, pad; uint64_t offset; };
struct fb { uint32_t id, width, height, pitch, bpp, depth, handle; };
struct clip { uint16_t x1, y1, x2, y2; };
struct dirty { uint32_t fb, flags, colour, clip_count; uint64_t clips; };
struct flip { uint32_t crtc, fb, flags, reserved; uint64_t user; };
struct cursor { uint32_t flags, crtc; int32_t x, y; uint32_t width, height, handle; };
struct property { uint64_t values, enums; uint32_t id, flags; char name[32]; uint32_t value_count, enum_count; };
struct set_property { uint64_t value; uint32_t property, connector; };
struct gpu_map { uint64_t offset; uint32_t handle, pad; };
struct execute {
    uint32_t flags, size;
    uint64_t command, handles;
    uint32_t handle_count;
    int32_t fence;
    uint32_t ring, syncobj_stride, in_count, out_count;
    uint64_t in, out;
};
struct texture {
    uint32_t target, format, bind, width, height, depth, layers, last_level, samples, flags;
    uint32_t handle, resource, size, stride;
};
struct box { uint32_t x, y, z, w, h, d; };
struct from_host { uint32_t handle; struct box box; uint32_t level, offset, stride, layer_stride; };
struct wait { uint32_t handle, flags; };
struct gpu_close { uint32_t handle, pad; };

#define CALL(number, type) _IOWR('d', number, type)
#define GET_RESOURCES CALL(0xA0, struct resources)
#define GET_CRTC CALL(0xA1, struct crtc)
#define SET_CRTC CALL(0xA2, struct crtc)
#define CURSOR CALL(0xA3, struct cursor)
#define GET_CONNECTOR CALL(0xA7, struct connector)
#define GET_PROPERTY CALL(0xAA, struct property)
#define SET_PROPERTY CALL(0xAB, struct set_property)
#define ADD_FB CALL(0xAE, struct fb)
#define REMOVE_FB CALL(0xAF, uint32_t)
#define PAGE_FLIP CALL(0xB0, struct flip)
#define DIRTY_FB CALL(0xB1, struct dirty)
#define CREATE_DUMB CALL(0xB2, struct dumb)
#define MAP_DUMB CALL(0xB3, struct dumb_map)
#define DESTROY_DUMB CALL(0xB4, uint32_t)
#define GPU_MAP CALL(0x41, struct gpu_map)
#define GPU_EXECUTE CALL(0x42, struct execute)
#define GPU_CREATE CALL(0x44, struct texture)
#define GPU_FROM_HOST CALL(0x46, struct from_host)
#define GPU_WAIT CALL(0x48, struct wait)
#define GEM_CLOSE _IOW('d', 0x09, struct gpu_close)
enum { FLIP_EVENT = 1, CURSOR_BO = 1, CURSOR_MOVE = 2, CONNECTED = 1, DPMS_ON = 0, DPMS_OFF = 3 };
enum { TEXTURE_2D = 2, BGRA = 1, RENDER_TARGET = 2, CLEAR_COLOUR = 4 };
enum { CREATE_OBJECT = 1, DESTROY_OBJECT = 3, SET_FRAMEBUFFER = 5, CLEAR = 7, SURFACE = 8 };
